"""Trains the roles of a round in parallel, with Ray: each on its own GPU or share of the CPU.

Roles are independent once the forest exists. A worker gets the config and the role's initial
policy; it reads the forest from the run directory, which every machine of the cluster must see, and
writes its adapters there. Roles wait until a GPU is free.
"""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from malt_fast.config.schema import Config
from malt_fast.engines import Policies, Policy
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.file import forest_of, read_forest
from malt_fast.runs.metrics import NewLines
from malt_fast.runs.run import Run
from malt_fast.sampling.prepare import load_setup
from malt_fast.training.train_role import train_role
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.ray_cluster import Cluster, connected, wait_for_head

Stages = tuple[Policy, Policy]  # of a role: after SFT, after DPO


def train_side_by_side(run: Run, index: int, start: Policies) -> tuple[Policies, Policies]:
    """Train every role of the chain from `start`, on the forest of round `index`.

    Returns the policies after SFT, and those after DPO. Uses the cluster at engine.ray_address.
    Raises MaltError if a role fails. If a stop was asked for, raises KeyboardInterrupt once every
    role in training has saved a checkpoint.
    """
    import ray

    chain = run.config.chain
    run.say(f"train side by side: {', '.join(chain)}")
    with connected(run.config.engine.ray_address) as cluster:
        gpus = gpus_of(run.config, cluster)
        cores = 0 if gpus else cluster.share(len(chain))
        worker = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=0)(_work)
        tasks = [
            worker.remote(run.config, run.folder.resolve(), index, role, start[role], cores)
            for role in chain
        ]
        stages = dict(zip(chain, _gather(run, tasks), strict=True))
    sft = {role: after_sft for role, (after_sft, _) in stages.items()}
    return sft, {role: after_dpo for role, (_, after_dpo) in stages.items()}


def _gather(run: Run, tasks: list[Any]) -> list[Stages]:
    """Wait for the workers, and return what each role's worker returns."""
    import ray

    waiting, stopping = tasks, False
    lines = NewLines(run.path("metrics.jsonl"))  # of the workers, whose own runs have no loggers
    outcomes: dict[Any, Stages] = {}
    try:
        while waiting:
            if interrupt.asked() and not stopping:
                stopping = True
                for task in waiting:
                    ray.cancel(task)  # raises KeyboardInterrupt in the worker
            done, waiting = ray.wait(waiting, timeout=1)
            if not done:
                wait_for_head()
            for line in lines.read():
                run.loggers.log(line)
            for task in done:
                outcome = _outcome(run, task, run.config.chain[tasks.index(task)])
                if outcome is not None:
                    outcomes[task] = outcome
    finally:
        for task in waiting:
            ray.cancel(task, force=True)
    if len(outcomes) < len(tasks):
        raise KeyboardInterrupt
    return [outcomes[task] for task in tasks]


def _outcome(run: Run, task: Any, role: str) -> Stages | None:
    """Print the output of a finished worker and return its result; None if it was stopped."""
    import ray

    try:
        printed, outcome = ray.get(task)
    except ray.exceptions.TaskCancelledError:  # before it began
        return None
    except ray.exceptions.RayError as error:
        raise MaltError(
            f"the worker that trained the {role} died ({first_line(error)}): see Ray's logs"
        ) from None
    if printed:
        run.say(printed.rstrip())
    if isinstance(outcome, MaltError):
        raise outcome
    return outcome


def gpus_of(config: Config, cluster: Cluster) -> int:
    """How many GPUs each role gets."""
    return int(any(cluster.gpus) and config.model.device != "cpu")


def _work(
    config: Config, folder: Path, index: int, role: str, start: Policy, cores: int
) -> tuple[str, Stages | MaltError | None]:
    """In a worker: (its output, its result or error); the result is None if it was stopped."""
    import torch

    if cores:
        torch.set_num_threads(cores)
    printed = io.StringIO()
    run = Run(folder, config, reports=False, console=Console(file=printed, width=200))
    try:
        with interrupt.two_steps():
            outcome = _stages(run, index, role, start)
    except KeyboardInterrupt:
        return printed.getvalue(), None
    except MaltError as error:
        return printed.getvalue(), MaltError(f"{role}: {error}")
    return printed.getvalue(), outcome


def _stages(run: Run, index: int, role: str, start: Policy) -> Stages:
    setup = load_setup(run.config)
    store = run.read_samples()
    file = read_forest(run.path(f"round-{index}", "forest.arrows"), store)
    forest = None if file is None else forest_of(file, store)
    if forest is None:
        raise MaltError(
            f"{run.folder} cannot be read on this machine: put the run on a disk that all share"
        )
    values = assign_credit(run.config.tree, forest)
    return train_role(run, setup, index, role, forest, values, start)
