"""MALT from questions to trained roles: `python -m malt_fast.train`.

Algorithm 1 of arXiv 2412.01928: sample a tree of outputs under every question, grade the leaves,
average outcomes up the tree, label every node, train one adapter a role (SFT on positives, then DPO
on sibling pairs), and evaluate the trained chain beside its baselines.

    python -m malt_fast.train                                        # the bundled demonstration
    python -m malt_fast.train --task.name gsm8k --task.path train.jsonl --run runs/gsm8k
    python -m malt_fast.train --run runs/gsm8k ...    # goes on; does again only what is changed
    python -m malt_fast.train --plan --run runs/gsm8k ...   # what it will take, by a probe
    python -m malt_fast.train --help

Under `accelerate launch` (profiles/) or `torchrun`, a role's steps are shared by all processes; the
first one does everything else.

Does not: tune the base model's own weights.
"""

import sys
from collections.abc import Sequence

from malt_fast.config.load import load_config
from malt_fast.config.schema import Config
from malt_fast.engines import Policies
from malt_fast.evaluation.run import evaluate_run
from malt_fast.forest.credit import assign_credit
from malt_fast.planning.plan import PROBE, make_plan, plan_long_run
from malt_fast.planning.plan_file import fill_facts
from malt_fast.results.report import finish
from malt_fast.runs.run import Run
from malt_fast.runs.saved import publish
from malt_fast.sampling.prepare import prepare, start_run
from malt_fast.sampling.round_forest import forest_name, report_yield, round_forest
from malt_fast.sampling.setup import Setup
from malt_fast.training.side_by_side import train_side_by_side
from malt_fast.training.train_role import train_role
from malt_fast.utils import distributed
from malt_fast.utils.errors import MaltError
from malt_fast.utils.program import exit_status


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
        sft = final = setup.base()
        for index in range(config.train.rounds):
            sft, final = train_round(run, setup, index, final)
        distributed.leave_process_group()
        if run.leads:
            publish(run, sft, final)
            if config.engine.name == "replay":
                run.warn("recordings do not cover trained roles: the run is not evaluated")
            else:
                evaluate_run(run, setup, setup.base(), sft, final)
            fill_facts(run)
            finish(run)
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
            report_yield(run, index, name, forest, values)
        if config.train.side_by_side:
            return train_side_by_side(run, index, start)
        stages = train_role(run, setup, index, role, forest, values, start[role])
        sft[role], final[role] = stages
    return sft, final


def take_plan(words: list[str]) -> int | None:
    """Questions to probe, if `--plan [QUESTIONS]` is given; it is taken out of the command line."""
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--plan":
            separate = not equals and i + 1 < len(words) and not words[i + 1].startswith("--")
            value = words[i + 1] if separate else value or (str(PROBE) if not equals else "")
            del words[i : i + 1 + separate]
            if not (value.isdecimal() and 0 < int(value) < 10**9):
                raise MaltError(
                    f"--plan takes a number of questions, not '{value}': write --plan 250"
                )
            return int(value)
    return None


def run_program(argv: Sequence[str]) -> None:
    words = list(argv)
    planning = take_plan(words)
    train(load_config(words, "malt_fast.train"), planning)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: run_program(words))


if __name__ == "__main__":
    sys.exit(main())
