"""The roles of a round side by side, with Ray: a GPU each, or a share of the CPU cores.

Roles are independent once the forest is there. A worker reads it from the run directory, which all
machines of a cluster must see, and leaves adapters there; it knows no more than the config and
where the role starts. Roles that find no GPU free wait for one.
"""

import io
from pathlib import Path

from rich.console import Console

from malt_fast.cluster import Cluster, connected
from malt_fast.config import Config
from malt_fast.engines import Policy
from malt_fast.errors import MaltError, first_line
from malt_fast.run import Run

Stages = tuple[Policy, Policy]  # a role after SFT and after DPO


def train_side_by_side(run: Run, index: int, start: dict[str, Policy]) -> list[Stages]:
    """Train every role of the chain from `start`, on the forest of round `index`.

    Uses the cluster of engine.ray_address. Raises MaltError if a role does.
    """
    import ray

    chain = run.config.chain
    run.say(f"train side by side: {', '.join(chain)}")
    with connected(run.config.engine.ray_address) as cluster:
        gpus = gpus_of(run.config, cluster)
        cores = 0 if gpus else cluster.share(len(chain))
        worker = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=0)(_train_role)
        tasks = [
            worker.remote(run.config, run.folder.resolve(), index, level, start[role], cores)
            for level, role in enumerate(chain, 1)
        ]
        waiting = tasks
        try:
            while waiting:
                (done,), waiting = ray.wait(waiting)
                told, outcome = ray.get(done)
                if told:
                    run.say(told.rstrip())
                if isinstance(outcome, MaltError):
                    raise outcome
        except ray.exceptions.RayError as error:
            role = chain[tasks.index(done)]
            raise MaltError(
                f"the worker that trained the {role} died ({first_line(error)}): see Ray's logs"
            ) from None
        finally:
            for task in waiting:
                ray.cancel(task, force=True)
        return [outcome for _, outcome in ray.get(tasks)]


def gpus_of(config: Config, cluster: Cluster) -> int:
    """GPUs of a role."""
    return int(any(cluster.gpus) and config.model.device != "cpu")


def _train_role(
    config: Config, folder: Path, index: int, level: int, start: Policy, cores: int
) -> tuple[str, Stages | MaltError]:
    """In a worker: what it would have printed, and what came of it."""
    import torch

    from malt_fast.forest import forest_of, read_forest
    from malt_fast.sampling import load_setup
    from malt_fast.train import propagate, train_stages

    if cores:
        torch.set_num_threads(cores)
    told = io.StringIO()
    run = Run(folder, config, console=Console(file=told, width=200))
    try:
        setup = load_setup(config)
        store = run.read_samples()
        file = read_forest(run.path(f"round-{index}", "forest.arrows"), store)
        forest = None if file is None else forest_of(file, store)
        if forest is None:
            raise MaltError(f"{folder} cannot be read here: all machines must see it")
        values = propagate(config, forest)
        outcome = train_stages(run, setup, index, level, forest, values, start)
    except MaltError as error:
        return told.getvalue(), MaltError(f"{config.chain[level - 1]}: {error}")
    return told.getvalue(), outcome
