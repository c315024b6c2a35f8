"""Run by torchrun in two processes: trains the jobs of test_distributed.py on the CPU.

accelerate shards models on GPUs only, so it is made to believe that there are some.
"""

import os
import pickle
import sys

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from malt_fast.training import train_stage, trainer
from tests.training.test_trainer import train


def pretend_gpus() -> None:
    start = PartialState.__init__

    def patched(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = patched


def check_slices(expected: bool) -> None:
    """Assert that every adapter is saved from a sharded model, or none."""
    whole = train_stage.replace_adapter

    def checked(model, *args, **kwargs):
        assert {isinstance(p, DTensor) for p in model.parameters()} == {expected}
        whole(model, *args, **kwargs)

    train_stage.replace_adapter = checked


def stop_after(steps: int):
    """Stop every process after `steps` steps; returns a function that undoes this."""
    done, whole = [0], trainer.StageTrainer.training_step

    def counted(self, *args, **kwargs):
        if done[0] == steps:
            raise KeyboardInterrupt
        done[0] += 1
        return whole(self, *args, **kwargs)

    trainer.StageTrainer.training_step = counted
    return lambda: setattr(trainer.StageTrainer, "training_step", whole)


def main() -> None:
    torch.set_num_threads(1)
    with open(sys.argv[1], "rb") as file:
        jobs = pickle.load(file)
    sliced = "ACCELERATE_USE_FSDP" in os.environ
    check_slices(sliced)
    if sliced:
        pretend_gpus()
    for job in jobs:
        stop, arguments = job["stop"], job["arguments"]
        if stop:
            undo = stop_after(stop)
            try:
                train(**arguments)
                raise AssertionError("was not stopped")
            except KeyboardInterrupt:
                undo()
        lines: list[dict] = []
        train(**arguments, on_log=lines.append)
        if os.environ["RANK"] == "0":
            with open(f"{arguments['out']}.lines", "wb") as file:
                pickle.dump(lines, file)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
