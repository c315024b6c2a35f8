"""The roles of a round side by side, with Ray: a GPU each, or a share of the CPU cores.

Roles are independent once the forest is there. A worker reads it from the run directory, which all
machines of a cluster must see, and leaves adapters there; it knows no more than the config and
where the role starts. Roles that find no GPU free wait for one.
"""

import io
import logging
from pathlib import Path

from rich.console import Console

from malt_fast.config import Config
from malt_fast.engines import Policy
from malt_fast.errors import MaltError
from malt_fast.run import Run

Stages = tuple[Policy, Policy]  # a role after SFT and after DPO


def train_side_by_side(run: Run, index: int, start: dict[str, Policy]) -> list[Stages]:
    """Train every role of the chain from `start`, on the forest of round `index`.

    Uses the cluster that RAY_ADDRESS names, or this machine. Raises MaltError if a role does.
    """
    import ray

    chain = run.config.chain
    run.say(f"train side by side: {', '.join(chain)}")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        cores, gpus = share_of(run.config, [n["Resources"] for n in ray.nodes() if n["Alive"]])
        worker = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=0)(_train_role)
        tasks = [
            worker.remote(run.config, run.folder.resolve(), index, level, start[role], cores)
            for level, role in enumerate(chain, 1)
        ]
        waiting = tasks
        while waiting:
            (done,), waiting = ray.wait(waiting)
            told, outcome = ray.get(done)
            run.say(told.rstrip())
            if isinstance(outcome, MaltError):
                raise outcome
        return [outcome for _, outcome in ray.get(tasks)]
    finally:
        ray.shutdown()


def share_of(config: Config, machines: list[dict[str, float]]) -> tuple[int, int]:
    """CPU cores and GPUs of a role: no more than one machine has."""
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    fair = max(1, min(max(cores), sum(cores) // len(config.chain)))
    has_gpu = any(machine.get("GPU", 0) >= 1 for machine in machines)
    return fair, int(has_gpu and config.model.device != "cpu")


def _train_role(
    config: Config, folder: Path, index: int, level: int, start: Policy, cores: int
) -> tuple[str, Stages | MaltError]:
    """In a worker: what it would have printed, and what came of it."""
    import torch

    from malt_fast.forest import load_forest
    from malt_fast.sampling import load_setup
    from malt_fast.train import propagate, train_stages

    torch.set_num_threads(cores)
    told = io.StringIO()
    run = Run(folder, config, console=Console(file=told, width=200))
    try:
        setup = load_setup(config)
        path = run.path(f"round-{index}", "forest.arrows")
        forest = load_forest(path, setup.prompts.fingerprint)
        values = propagate(config, forest)
        outcome = train_stages(run, setup, index, level, forest, values, start)
    except MaltError as error:
        return told.getvalue(), MaltError(f"{config.chain[level - 1]}: {error}")
    return told.getvalue(), outcome
