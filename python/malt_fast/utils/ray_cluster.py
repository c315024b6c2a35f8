"""The Ray cluster: a running one, or one started on this machine."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.installing import install_command

PATIENCE = 30.0  # seconds for a head that does not answer; Ray ends this process after 60


@dataclass(frozen=True)
class Cluster:
    """The resources of a cluster, by machine."""

    cores: list[int]
    gpus: list[int]

    def share(self, workers: int) -> int:
        """CPU cores per worker, so that all of them fit at once; at least 1."""
        sizes = range(max(self.cores), 0, -1)
        return next((n for n in sizes if sum(c // n for c in self.cores) >= workers), 1)


def check_ray() -> None:
    """Raises MaltError if ray is not installed."""
    if find_spec("ray") is None:
        raise MaltError(f"this needs ray, which is not installed: {install_command('ray')}")


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Connect to Ray at `address`, else at RAY_ADDRESS, else on this machine, and disconnect after.

    Raises MaltError for a cluster that does not answer.
    """
    import ray

    if ray.is_initialized():  # by the program that uses this library
        yield describe_cluster()
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    options = {} if address else {"include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's handler would end the process at once
    except (OSError, ValueError, RuntimeError) as error:
        raise MaltError(
            f"no Ray cluster answers at {address} ({first_line(error)}): check "
            "engine.ray_address, or start one by `ray start --head`"
        ) from None
    try:
        yield describe_cluster()
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises OSError if nobody listens: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition("//")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def wait_for_head() -> None:
    """Return once the head of the connected cluster can be reached: usually at once.

    Raises MaltError if that takes too long. Whatever asks the head of Ray would wait with it.
    """
    import ray

    address, end = ray.get_runtime_context().gcs_address, time.monotonic() + PATIENCE
    while True:
        try:
            return _knock(address)
        except OSError as error:
            if time.monotonic() > end:
                raise MaltError(
                    f"the head of the Ray cluster, {address}, has not answered for "
                    f"{PATIENCE:.0f} seconds ({first_line(error)}): check it and the network, and "
                    "give the same command; what was sampled is kept"
                ) from None
        time.sleep(0.5)


def describe_cluster() -> Cluster:
    """The resources of the connected cluster. Raises MaltError if all its machines are gone."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not machines:
        raise MaltError(
            "no machine of the Ray cluster answers any more: start it again, and give the same "
            "command; what was sampled is kept"
        )
    return Cluster(
        [int(machine.get("CPU", 0)) for machine in machines],
        [int(machine.get("GPU", 0)) for machine in machines],
    )
