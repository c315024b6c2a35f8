"""Cut the network between two Ray machines while a run samples on them, and kill their head.

    sudo python -m tests.faults.network [--only CASE ...] [--json FILE]

A head and a worker run in network namespaces of their own, joined by a pair of virtual interfaces;
the run is on the head's machine and has a replica of its engine on each. While it samples:

- short: the link is down for five seconds. The run goes on;
- long: the link goes down for good. The run ends on the replica that is left;
- head: the head is killed. The run ends with one sentence, and goes on without Ray.

What must be equal at last, to a run without Ray: trees, pairs, adapters and results. Needs root,
iproute2 and ray; without them it says so and ends.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.faults.kills import OPTIONS, results
from tests.small_run import write_model

HEAD, WORKER, PORT = "10.213.7.1", "10.213.7.2", 6379
SHORT = 5.0  # seconds
PATIENCE = 240.0  # seconds, of a whole run with a fault in it
QUESTIONS = 12
# Ray gives up a machine after ten seconds or so, not after 70.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
CASES = ("short", "long", "head")
SLOW = [
    "--sampling.max_tokens",
    "24",
    "--sampling.roles.refiner.max_tokens",
    "1",
    "--engine.batch_size",
    "8",
    "--train.dpo_roles",
    "[]",
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=10)


@contextmanager
def two_networks() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces that reach each other."""
    names = f"malt-head-{os.getpid()}", f"malt-worker-{os.getpid()}"
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        pair = ["malt0", "netns", names[0], "type", "veth", "peer", "malt0", "netns", names[1]]
        ip("link", "add", *pair)
        for name, address in zip(names, (HEAD, WORKER), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "malt0")
            for link in ("lo", "malt0"):
                ip("-n", name, "link", "set", link, "up")
        yield names


@contextmanager
def ray_machine(network: str, log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Ray in a network namespace, and in one of processes: they all end with the first."""
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
    environment = os.environ | QUICK
    ray += ["--num-cpus", "1", "--num-gpus", "0", "--disable-usage-stats", *options]
    with log.open("wb") as out:
        command = ["ip", "netns", "exec", network, *inside, *ray]
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster(networks: tuple[str, str], work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Both machines, each with a core; the head's process."""
    head = ["--head", "--port", str(PORT), "--include-dashboard", "false"]
    head += ["--node-ip-address", HEAD, "--temp-dir", str(work / "ray")]
    joins = ["--address", f"{HEAD}:{PORT}", "--node-ip-address", WORKER]
    with ray_machine(networks[0], work / "head.log", *head) as process:
        wait_for(lambda: "Ray runtime started" in (work / "head.log").read_text(), process, 60)
        with ray_machine(networks[1], work / "worker.log", *joins) as worker:
            log = work / "worker.log"
            wait_for(lambda: "Ray runtime started" in log.read_text(), worker, 60)
            yield process


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float) -> None:
    """Raises TimeoutError if it takes longer, or if the process ends before."""
    end = time.monotonic() + seconds
    while not what():
        if process.poll() is not None or time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


def size(run: Path) -> int:
    """Bytes of what was sampled."""
    return sum(file.stat().st_size for file in (run / "samples").glob("*"))


def disturb(case: str, networks: tuple[str, str], head: subprocess.Popen[bytes]) -> None:
    if case == "head":
        head.kill()
        return
    ip("-n", networks[0], "link", "set", "malt0", "down")
    if case == "short":
        time.sleep(SHORT)
        ip("-n", networks[0], "link", "set", "malt0", "up")


def run_case(case: str, work: Path, whole: Path, command: list[str]) -> dict[str, Any]:
    """What became of a run with a fault in it; `problem` is empty if all is as it should be."""
    work.mkdir()
    run, log = work / "run", work / "run.log"
    options = [
        "--run",
        str(run),
        "--engine.replicas",
        "2",
        "--engine.ray_address",
        f"{HEAD}:{PORT}",
    ]
    with two_networks() as networks, cluster(networks, work) as head, log.open("wb") as out:
        inside = ["ip", "netns", "exec", networks[0], *command, *options]
        process = subprocess.Popen(inside, stdout=out, stderr=out, start_new_session=True)
        try:
            wait_for(lambda: size(run) > size(whole) / 4, process, PATIENCE)
            begun = time.monotonic()
            disturb(case, networks, head)
            status = process.wait(PATIENCE)
            seconds = time.monotonic() - begun
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            return {"problem": f"{type(error).__name__}: {log.read_text()[-500:]}"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    again = 0
    if status == 2:
        alone = ["--run", str(run), "--engine.replicas", "1"]
        with log.open("ab") as out:
            again = subprocess.run(
                [*command, *alone], stdout=out, stderr=out, timeout=PATIENCE
            ).returncode
    said = log.read_text()
    problem = f"ended with status {status}, {again}" if status not in (0, 2) or again else ""
    if "Traceback" in said or "***" in said:
        problem = problem or "a traceback"
    problem = problem or differs(run, whole)
    lines = [line for line in said.splitlines() if "engine replica" in line or "error:" in line]
    return {"problem": problem, "status": status, "seconds": round(seconds, 1), "said": lines}


def differs(run: Path, whole: Path) -> str:
    """What a run has otherwise than the undisturbed one."""
    got, expected = results(run), results(whole)
    del (
        got["evaluation.json"],
        expected["evaluation.json"],
    )  # names settings; its numbers are in tables
    names = [name for name in got | expected if got.get(name) != expected.get(name)]
    return f"differs: {', '.join(names)}" if names else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if os.geteuid() or not shutil.which("ip") or not find_spec("ray"):
        print("nothing was tried: this needs root, iproute2 and ray")
        return 0
    os.environ["RAY_AUTH_MODE"] = "disabled"
    work = args.work or Path(tempfile.mkdtemp(prefix="faults-"))
    work.mkdir(parents=True, exist_ok=True)
    write_model(work / "model")
    data, few = work / "questions.jsonl", work / "few.jsonl"
    rows = [{"question": f"one or two? ({i})", "answer": str(1 + i % 2)} for i in range(QUESTIONS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few.write_text(json.dumps(rows[0]) + "\n")
    command = [sys.executable, "-m", "malt_fast.train", *OPTIONS, *SLOW]
    command += ["--task.path", str(data), "--task.test_path", str(few)]
    command += ["--model.name_or_path", str(work / "model")]
    begun = time.monotonic()
    alone, quiet = [*command, "--run", str(work / "whole")], subprocess.DEVNULL
    subprocess.run(alone, check=True, timeout=PATIENCE, stdout=quiet, stderr=quiet)
    print(f"undisturbed, without Ray: {time.monotonic() - begun:.1f} s")
    report = {}
    for case in args.only:
        report[case] = run_case(case, work / case, work / "whole", command)
        print(case, json.dumps(report[case]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if any(found["problem"] for found in report.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
