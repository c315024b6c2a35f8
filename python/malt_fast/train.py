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
from malt_fast.engines import Policies
from malt_fast.evaluation.run import evaluate_run
from malt_fast.forest.credit import assign_credit
from malt_fast.planning.plan import PROBE, make_plan, plan_long_run
from malt_fast.planning.plan_facts import fill_facts
from malt_fast.planning.schedule import schedule
from malt_fast.results.write_report import write_final_report
from malt_fast.runs.directory import check_changes
from malt_fast.runs.run import Run
from malt_fast.runs.saved import publish
from malt_fast.sampling.prepare import prepare, start_run
from malt_fast.sampling.prompt_texts import prompt_texts
from malt_fast.sampling.round_forest import forest_name, report_yield, round_forest
from malt_fast.sampling.setup import Setup
from malt_fast.training.side_by_side import train_side_by_side
from malt_fast.training.train_role import train_role
from malt_fast.training.warm_start import warm_start
from malt_fast.utils import distributed
from malt_fast.utils.errors import printable
from malt_fast.utils.exit_status import show


def train(config: Config, plan: int | None = None) -> Run:
    """The whole method: rounds of sampling and training, then the evaluation.

    plan: only estimate what all of that will take, by a probe of this many questions.
    """
    setup = prepare(config)
    with start_run(setup) as run:
        if plan is not None:
            make_plan(run, setup, plan)
            return run
        plan_long_run(run, setup)
        run.schedule = schedule(run)
        sft = final = start = warm_start(run, setup)
        for index in range(config.train.rounds):
            sft, final = train_round(run, setup, index, final)
        distributed.leave_process_group()
        if run.leads:
            publish(run, sft, final)
            if config.engine.name == "replay":
                run.warn("recordings do not cover trained roles: the run is not evaluated")
            else:
                evaluate_run(run, setup, start, sft, final)
            fill_facts(run)
            write_final_report(run)
    return run


def train_round(run: Run, setup: Setup, index: int, start: Policies) -> tuple[Policies, Policies]:
    """One round from the policies `start`: the policies after SFT, and those after DPO.

    All roles learn from one forest, or under `regenerate: sequential` each from a forest in which
    the roles before it are already trained.
    """
    config, sft, final = setup.config, dict(start), dict(start)
    for role in config.chain:
        if role == config.chain[0] or config.train.regenerate == "sequential":
            name = forest_name(config, role)
            forest = round_forest(run, setup, index, name, final)
            values = assign_credit(config.tree, forest)
            report_yield(run, setup, index, name, forest, values)
        if config.train.side_by_side:
            return train_side_by_side(run, index, start)
        stages = train_role(run, setup, index, role, forest, values, start[role])
        sft[role], final[role] = stages
    return sft, final


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
