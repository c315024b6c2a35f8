"""Several engines as Ray actors, on this machine or a cluster, used like one engine.

An actor owns one engine and works in short turns: take new requests, sample for a while, return
what finished. Each actor has two turns under way, so that it never waits for the driver. The driver
keeps the requests that an actor has not answered: if it dies, or its machine is cut off, they are
sampled again, with their seeds, hence to the same tokens. Another actor takes its place, and the
others go on while it loads; without room for it they go on alone.
"""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from malt_fast.engines import Completion, Engine, Request
from malt_fast.engines.router import Router
from malt_fast.engines.spec import EngineSpec
from malt_fast.utils.errors import MaltError, first_line, printable
from malt_fast.utils.ray_cluster import Cluster, connected, describe_cluster, wait_for_head

log = logging.getLogger(__name__)

TURN = 0.05  # seconds of sampling per turn
SHARE = 5 / 8  # of the requests an engine wants are handed to it; idle ones can take the rest
CHECK = 5.0  # seconds between looks at the cluster
DEATHS = 3  # of one replica without a finished output in between end the run


class Turn(NamedTuple):
    """The result of a turn."""

    done: list[Completion]
    figures: dict[str, float]
    error: MaltError | None = None  # why the engine cannot go on


class Worker:
    """The actor: an engine that works in turns."""

    def __init__(self, spec: EngineSpec, cores: int) -> None:
        self.spec, self.cores = spec, cores
        self.engine: Engine | None = None

    def open(self) -> int | MaltError:
        """Open the engine; returns how many requests keep it busy."""
        import torch

        if self.cores:
            torch.set_num_threads(self.cores)
        try:
            self.engine = self.spec.open()
        except MaltError as error:
            return error
        return self.engine.wants

    def work(self, requests: Sequence[Request]) -> Turn:
        """Take `requests` and sample for a while."""
        assert self.engine is not None
        done: list[Completion] = []
        end = time.monotonic() + TURN
        try:
            self.engine.submit(requests)
            while self.engine.pending and time.monotonic() < end:
                done += self.engine.poll()
        except MaltError as error:
            return Turn(done, self.engine.figures(), error)
        return Turn(done, self.engine.figures())

    def pid(self) -> int:
        return os.getpid()


@dataclass
class Replica:
    """The driver's view of an actor."""

    actor: Any  # None: it died, and there is no room for another
    wants: int = 0  # requests that keep it busy; 0 until its engine is loaded
    taken: dict[int, Request] = field(default_factory=dict)  # handed over, not answered yet
    figures: dict[str, float] = field(default_factory=dict)  # of its last turn
    turns: int = 0  # under way; loading is one
    deaths: int = 0  # since an output finished


class RayEngine:
    """`replicas` engines made from one spec.

    address: of a running cluster; None means RAY_ADDRESS, or this machine. Raises MaltError if the
    cluster lacks what the replicas need, or an engine cannot be opened.
    """

    def __init__(self, spec: EngineSpec, replicas: int, address: str | None = None) -> None:
        self.router = Router(replicas)
        self.calls: dict[Any, int] = {}  # Ray's reference of what it does -> replica
        self.stop: MaltError | None = None  # why the engine cannot go on
        self.check_at = time.monotonic() + CHECK
        self.leaving = ExitStack()
        try:
            cluster = self.leaving.enter_context(connected(address))
            if spec.name == "hf" and not any(cluster.gpus):
                spec = replace(spec, gpus=0)
            self.spec = spec
            check_room(cluster, spec, replicas)
            self.cores = 0 if spec.gpus else cluster.share(replicas)
            self.replicas = [Replica(None) for _ in range(replicas)]
            for i in range(replicas):
                self._begin(i)
            while any(replica.actor is not None and not replica.wants for replica in self.replicas):
                self.poll()
        except BaseException:
            self.leaving.close()
            raise

    @property
    def wants(self) -> int:
        return sum(replica.wants for replica in self.replicas)

    @property
    def pending(self) -> int:
        return self.router.pending

    def submit(self, requests: Sequence[Request]) -> None:
        self.router.add(requests)

    def poll(self) -> list[Completion]:
        """Hand out requests that wait, then wait up to a second for results.

        Raises MaltError if no replica can go on, or the cluster's head is gone.
        """
        import ray

        if self.stop is not None:
            raise self.stop
        self._hand_out()
        ready, _ = ray.wait(list(self.calls), num_returns=1, timeout=1.0)
        if time.monotonic() > self.check_at:
            self._check_cluster()
            self.check_at = time.monotonic() + CHECK
        more, _ = ray.wait(list(self.calls), num_returns=len(self.calls), timeout=0)
        done: list[Completion] = []
        for call in dict.fromkeys([*ready, *more]):
            try:
                done += self._result(call)
            except MaltError as error:
                self.stop = error
                break
        if self.stop is not None and not done:
            raise self.stop
        return done

    def figures(self) -> dict[str, float]:
        """The mean of each figure over the replicas."""
        known = [replica.figures for replica in self.replicas if replica.figures]
        keys = known[0] if known else []
        return {key: sum(figures[key] for figures in known) / len(known) for key in keys}

    def close(self) -> None:
        import ray

        for replica in self.replicas:
            if replica.actor is not None:
                ray.kill(replica.actor)
        self.leaving.close()

    def _hand_out(self) -> None:
        """Begin turns: two per actor that has work, so that one waits while the other runs."""
        for i, replica in enumerate(self.replicas):
            while replica.wants and replica.turns < 2:
                room = max(1, int(SHARE * replica.wants)) - len(replica.taken)
                requests = self.router.take(i, room)
                replica.taken |= {request.id: request for request in requests}
                if not replica.taken:
                    break
                self.calls[replica.actor.work.remote(requests)] = i
                replica.turns += 1

    def _result(self, call: Any) -> list[Completion]:
        """The completions of a finished turn, none of a loading, whose MaltError is raised."""
        import ray

        if call not in self.calls:  # its actor was replaced
            return []
        i = self.calls.pop(call)
        replica = self.replicas[i]
        replica.turns -= 1
        try:
            found = ray.get(call)
        except ray.exceptions.RayError as error:
            self._replace(i, error)
            return []
        if isinstance(found, MaltError):
            raise found
        if isinstance(found, int):
            replica.wants = found
            return []
        done, replica.figures, stop = found
        self.stop = self.stop or stop  # raised once its last completions are returned
        if done:
            replica.deaths = 0
        self.router.settle([replica.taken.pop(completion.id) for completion in done])
        return done

    def _replace(self, i: int, error: Exception) -> None:
        """Replace an actor that failed; the requests it had taken wait again."""
        import ray

        dead, reason = self.replicas[i], first_line(error)
        dead.deaths += 1
        if dead.deaths >= DEATHS:
            raise MaltError(
                f"engine replica {i} failed {DEATHS} times without finishing an output ({reason}): "
                "see Ray's logs; with less memory per batch it may live"
            )
        wait_for_head()
        ray.kill(dead.actor)  # if only its engine raised, it lives and keeps its GPU
        self.calls = {call: j for call, j in self.calls.items() if j != i}
        self.router.again(dead.taken.values())
        self.replicas[i] = Replica(None, deaths=dead.deaths)
        others = sum(replica.actor is not None for replica in self.replicas)
        if self._room() > others:
            log.warning(
                "engine replica %d failed (%s): a new one takes its place", i, printable(reason)
            )
            self._begin(i)
        elif others:
            log.warning(
                "engine replica %d is lost (%s), and the Ray cluster has no room for another: %d "
                "of %d go on",
                *(i, printable(reason), others, len(self.replicas)),
            )
        else:
            raise MaltError(
                f"engine replica {i} is lost ({reason}), and the Ray cluster has no room for "
                "another: add a machine, and give the same command; what was sampled is kept"
            )

    def _check_cluster(self) -> None:
        """Give up a replica that waits for a lost machine. Raises MaltError if the head is gone."""
        wait_for_head()
        used = [i for i, replica in enumerate(self.replicas) if replica.actor is not None]
        loading = [i for i in used if not self.replicas[i].wants]
        if loading and self._room() < len(used):
            self._replace(loading[0], RuntimeError("its machine is gone"))

    def _room(self) -> int:
        return room_for(describe_cluster(), self.spec, self.cores)

    def _begin(self, i: int) -> None:
        """Let a new actor load the engine of replica `i`."""
        import ray

        options = {"num_cpus": self.cores, "num_gpus": self.spec.gpus, "max_restarts": 0}
        actor = ray.remote(Worker).options(**options).remote(self.spec, self.cores)
        self.replicas[i] = Replica(actor, turns=1, deaths=self.replicas[i].deaths)
        self.calls[actor.open.remote()] = i


def room_for(cluster: Cluster, spec: EngineSpec, cores: int) -> int:
    """How many replicas the cluster has room for, of so many cores each if they use no GPU."""
    if spec.gpus:
        return sum(gpus // spec.gpus for gpus in cluster.gpus)
    return sum(have // cores for have in cluster.cores)


def check_room(cluster: Cluster, spec: EngineSpec, replicas: int) -> None:
    """Raises MaltError if the replicas would wait forever for room in the cluster."""
    fits = room_for(cluster, spec, cluster.share(replicas))
    if spec.gpus:
        each = f"{spec.gpus} GPU{'s' * (spec.gpus > 1)} each, on one machine"
        have = f"machines with {', '.join(map(str, cluster.gpus))} GPUs"
    else:
        each, have = "a core each", f"{sum(cluster.cores)} cores"
    if fits < replicas:
        raise MaltError(
            f"engine.replicas = {replicas} need {each}, but the Ray cluster has {have}, room for "
            f"{fits}: lower engine.replicas or add machines"
        )
