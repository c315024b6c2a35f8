"""The roles of a round side by side, with Ray: a GPU each, or a share of the CPU cores.

Roles are independent once the forest is there. A worker reads it from the run directory, which all
machines of a cluster must see, and leaves adapters there; it knows no more than the config and
where the role starts. Roles that find no GPU free wait for one.
"""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from malt_fast.config.schema import Config
from malt_fast.engines import Policies, Policy
from malt_fast.runs.metrics import NewLines
from malt_fast.runs.run import Run
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.ray_cluster import Cluster, connected

Stages = tuple[Policy, Policy]  # a role after SFT and after DPO


def train_side_by_side(run: Run, index: int, start: Policies) -> tuple[Policies, Policies]:
    """Train every role of the chain from `start`, on the forest of round `index`.

    Returns the policies after SFT, and those after DPO.

    Uses the cluster of engine.ray_address. Raises MaltError if a role does, KeyboardInterrupt once
    every role that trains has left a checkpoint, when a stop was asked for.
    """
    import ray

    chain = run.config.chain
    run.say(f"train side by side: {', '.join(chain)}")
    with connected(run.config.engine.ray_address) as cluster:
        gpus = gpus_of(run.config, cluster)
        cores = 0 if gpus else cluster.share(len(chain))
        worker = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=0)(_train_role)
        tasks = [
            worker.remote(run.config, run.folder.resolve(), index, role, start[role], cores)
            for role in chain
        ]
        stages = dict(zip(chain, _gather(run, tasks), strict=True))
    sft = {role: after_sft for role, (after_sft, _) in stages.items()}
    return sft, {role: after_dpo for role, (_, after_dpo) in stages.items()}


def _gather(run: Run, tasks: list[Any]) -> list[Stages]:
    """What the workers of a chain's roles return."""
    import ray

    waiting, stopping = tasks, False
    lines = NewLines(run.path("metrics.jsonl"))  # of the workers, whose own runs have no loggers
    outcomes: dict[Any, Stages] = {}
    try:
        while waiting:
            if interrupt.asked() and not stopping:
                stopping = True
                for task in waiting:
                    ray.cancel(task)  # a Ctrl-C in its worker
            done, waiting = ray.wait(waiting, timeout=1)
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
    """Of a worker that has ended, after what it printed; None where it was stopped."""
    import ray

    try:
        told, outcome = ray.get(task)
    except ray.exceptions.TaskCancelledError:  # before it began
        return None
    except ray.exceptions.RayError as error:
        raise MaltError(
            f"the worker that trained the {role} died ({first_line(error)}): see Ray's logs"
        ) from None
    if told:
        run.say(told.rstrip())
    if isinstance(outcome, MaltError):
        raise outcome
    return outcome


def gpus_of(config: Config, cluster: Cluster) -> int:
    """GPUs of a role."""
    return int(any(cluster.gpus) and config.model.device != "cpu")


def _train_role(
    config: Config, folder: Path, index: int, role: str, start: Policy, cores: int
) -> tuple[str, Stages | MaltError | None]:
    """In a worker: what it would have printed, and what came of it; None where it was stopped."""
    import torch

    if cores:
        torch.set_num_threads(cores)
    told = io.StringIO()
    run = Run(folder, config, reports=False, console=Console(file=told, width=200))
    try:
        with interrupt.two_steps():
            outcome = _stages(run, index, role, start)
    except KeyboardInterrupt:
        return told.getvalue(), None
    except MaltError as error:
        return told.getvalue(), MaltError(f"{role}: {error}")
    return told.getvalue(), outcome


def _stages(run: Run, index: int, role: str, start: Policy) -> Stages:
    from malt_fast.forest.credit import assign_credit
    from malt_fast.forest.file import forest_of, read_forest
    from malt_fast.sampling.prepare import load_setup
    from malt_fast.training.train_role import train_role

    setup = load_setup(run.config)
    store = run.read_samples()
    file = read_forest(run.path(f"round-{index}", "forest.arrows"), store)
    forest = None if file is None else forest_of(file, store)
    if forest is None:
        raise MaltError(f"{run.folder} cannot be read here: all machines must see it")
    values = assign_credit(run.config.tree, forest)
    return train_role(run, setup, index, role, forest, values, start)
