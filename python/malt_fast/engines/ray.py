"""Several engines as Ray actors, on this machine or a cluster, used like one engine.

An actor owns one engine and works in short turns: take new requests, sample for a while, return
what finished. Each actor has two turns under way, so that it never waits for the driver. The driver
keeps the requests that an actor has not answered: if it dies, another takes its place and samples
them again, with their seeds, hence to the same tokens.
"""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

from malt_fast.engines import Completion, Engine, Request
from malt_fast.engines.router import Router
from malt_fast.engines.spec import EngineSpec
from malt_fast.utils.errors import MaltError, first_line, printable
from malt_fast.utils.ray_cluster import Cluster, connected, describe_cluster

log = logging.getLogger(__name__)

TURN = 0.05  # seconds of sampling per turn
SHARE = 5 / 8  # of the requests an engine wants are handed to it; idle ones can take the rest
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

    actor: Any
    wants: int = 0
    taken: dict[int, Request] = field(default_factory=dict)  # handed over, not answered yet
    figures: dict[str, float] = field(default_factory=dict)  # of its last turn
    turns: int = 0  # under way
    deaths: int = 0  # since an output finished


class RayEngine:
    """`replicas` engines made from one spec.

    address: of a running cluster; None means RAY_ADDRESS, or this machine. Raises MaltError if the
    cluster lacks what the replicas need, or an engine cannot be opened.
    """

    def __init__(self, spec: EngineSpec, replicas: int, address: str | None = None) -> None:
        self.router = Router(replicas)
        self.calls: dict[Any, int] = {}  # Ray's reference of a turn -> replica
        self.leaving = ExitStack()
        try:
            cluster = self.leaving.enter_context(connected(address))
            if spec.name == "hf" and not any(cluster.gpus):
                spec = replace(spec, gpus=0)
            self.spec = spec
            check_room(cluster, spec, replicas)
            self.cores = 0 if spec.gpus else cluster.share(replicas)
            self.replicas = [Replica(self._actor()) for _ in range(replicas)]
            if error := self._open(self.replicas):
                raise MaltError(
                    f"an engine died while it was loading ({first_line(error)}): see Ray's logs"
                )
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
        """Hand out requests that wait, then wait up to a second for results."""
        import ray

        self._hand_out()
        ready, _ = ray.wait(list(self.calls), num_returns=1, timeout=1.0)
        more, _ = ray.wait(list(self.calls), num_returns=len(self.calls), timeout=0)
        done: list[Completion] = []
        stop: MaltError | None = None
        for call in dict.fromkeys([*ready, *more]):
            try:
                done += self._result(call)
            except MaltError as error:
                stop = error
        if stop is not None and not done:
            raise stop
        return done  # an engine that cannot go on reports it again at its next turn

    def figures(self) -> dict[str, float]:
        """The mean of each figure over the replicas."""
        known = [replica.figures for replica in self.replicas if replica.figures]
        keys = known[0] if known else []
        return {key: sum(figures[key] for figures in known) / len(known) for key in keys}

    def close(self) -> None:
        import ray

        for replica in self.replicas:
            ray.kill(replica.actor)
        self.leaving.close()

    def _hand_out(self) -> None:
        """Begin turns: two per actor that has work, so that one waits while the other runs."""
        for i, replica in enumerate(self.replicas):
            while replica.turns < 2:
                room = max(1, int(SHARE * replica.wants)) - len(replica.taken)
                requests = self.router.take(i, room)
                replica.taken |= {request.id: request for request in requests}
                if not replica.taken:
                    break
                self.calls[replica.actor.work.remote(requests)] = i
                replica.turns += 1

    def _result(self, call: Any) -> list[Completion]:
        """The completions of a finished turn. Raises its MaltError if it has none."""
        import ray

        if call not in self.calls:  # its actor was replaced
            return []
        i = self.calls.pop(call)
        replica = self.replicas[i]
        replica.turns -= 1
        try:
            done, replica.figures, stop = ray.get(call)
        except ray.exceptions.RayError as error:
            self._replace(i, error)
            return []
        if stop is not None and not done:
            raise stop
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
        ray.kill(dead.actor)  # if only its engine raised, it lives and keeps its GPU
        check_room(describe_cluster(), self.spec, len(self.replicas))
        log.warning(
            "engine replica %d failed (%s): a new one takes its place", i, printable(reason)
        )
        self.calls = {call: j for call, j in self.calls.items() if j != i}
        self.replicas[i] = Replica(self._actor(), deaths=dead.deaths)
        self.router.again(dead.taken.values())
        if again := self._open([self.replicas[i]]):
            self._replace(i, again)

    def _actor(self) -> Any:
        import ray

        options = {"num_cpus": self.cores, "num_gpus": self.spec.gpus, "max_restarts": 0}
        return ray.remote(Worker).options(**options).remote(self.spec, self.cores)

    def _open(self, replicas: Sequence[Replica]) -> Exception | None:
        """Load the engines of new actors, in parallel; returns how one died. Raises MaltError as
        engines do."""
        import ray

        try:
            found = ray.get([replica.actor.open.remote() for replica in replicas])
        except ray.exceptions.RayError as error:
            return cast(Exception, error)
        for replica, wants in zip(replicas, found, strict=True):
            if isinstance(wants, MaltError):
                raise wants
            replica.wants = wants
        return None


def check_room(cluster: Cluster, spec: EngineSpec, replicas: int) -> None:
    """Raises MaltError if the replicas would wait forever for room in the cluster."""
    if spec.gpus:
        room = sum(gpus // spec.gpus for gpus in cluster.gpus)
        each = f"{spec.gpus} GPU{'s' * (spec.gpus > 1)} each, on one machine"
        have = f"machines with {', '.join(map(str, cluster.gpus))} GPUs"
    else:
        room = sum(cores // cluster.share(replicas) for cores in cluster.cores)
        each, have = "a core each", f"{sum(cluster.cores)} cores"
    if room < replicas:
        raise MaltError(
            f"engine.replicas = {replicas} need {each}, but the Ray cluster has {have}, room for "
            f"{room}: lower engine.replicas or add machines"
        )
