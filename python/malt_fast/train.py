"""MALT from questions to trained roles: `python -m malt_fast.train`.

Algorithm 1 of arXiv 2412.01928: sample a tree of outputs under every question, grade the leaves,
average the outcomes up the tree, label every node, train one adapter per role (SFT on positive
outputs, then DPO on sibling pairs), and evaluate the trained chain beside its baselines.

    python -m malt_fast.train                                        # the bundled demonstration
    python -m malt_fast.train --task.name gsm8k --task.path train.jsonl --run runs/gsm8k
    python -m malt_fast.train --run runs/gsm8k              # goes on, with the run's settings
    python -m malt_fast.train --run runs/gsm8k --train.rounds 2    # repeats what a change affects
    python -m malt_fast.train --plan --run runs/gsm8k ...   # estimates the run from a probe
    python -m malt_fast.train --show_prompts ...            # prints the prompts of every role
    python -m malt_fast.train --help

Under `accelerate launch` (profiles/) or `torchrun`, all processes share the training steps; the
first process does everything else.

Not supported: full fine-tuning of the base model.
"""

import sys
from collections.abc import Sequence

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.load import plain_config
from malt_fast.config.schema import Config
from malt_fast.config.sections import MAX, setting
from malt_fast.planning import PROBE
from malt_fast.runs.directory import check_changes
from malt_fast.utils.errors import printable
from malt_fast.utils.exit_status import show


class Command(Config):
    plan: int | None = setting(
        None,
        "only estimate what the run will take, by a probe of this many questions that the run "
        f"keeps; {PROBE} if no number is given",
        ge=1,
        le=MAX,
        exclude=True,
    )
    show_prompts: bool = setting(
        False, "only print the prompt of every role for the first question", exclude=True
    )
    overwrite: bool = setting(
        False, "let changed settings replace what the run has trained", exclude=True
    )


PROGRAM = Program(
    "malt_fast.train",
    Command,
    "Samples a tree of outputs under every question, grades them, trains one adapter per role and "
    "evaluates. Without options it runs the bundled demonstration on the CPU. With the run "
    "directory of an earlier run, it goes on where that run stopped, with that run's settings; "
    "options go over these, and only what they affect is repeated.",
    (
        "",
        "--task.name gsm8k --task.path train.jsonl --run runs/gsm8k",
        "--run runs/gsm8k",
        "--config configs/gsm8k.yaml --config configs/1-gpu.yaml",
        "--plan --config configs/gsm8k.yaml --run runs/gsm8k",
        "--run runs/long --tree.branching 4,3,2 --sampling.temperature 0.7",
    ),
    common=(
        *(
            "plan",
            "show_prompts",
            "run",
            "overwrite",
            "task.name",
            "task.path",
            "task.limit",
            "model.name_or_path",
        ),
        *("engine.name", "sampling.temperature", "sampling.max_tokens", "tree.branching"),
        *("train.rounds", "train.dpo.beta"),
    ),
    alone={"plan": str(PROBE)},
)


def run_program(command: Command) -> None:
    # Imported here, after the first words: this takes longer than reading the command.
    from malt_fast.method import train
    from malt_fast.sampling.prepare import prepare
    from malt_fast.sampling.prompt_texts import prompt_texts

    config = plain_config(command)
    if command.show_prompts:
        show(printable(prompt_texts(prepare(config))))
    else:
        check_changes(config, command.overwrite)
        train(config, command.plan)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
