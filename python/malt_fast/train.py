"""MALT from questions to trained roles: `python -m malt_fast.train`.

Algorithm 1 of arXiv 2412.01928: sample a tree of outputs under every question, grade the leaves,
average outcomes up the tree, label every node, train one adapter a role (SFT on positives, then DPO
on sibling pairs), and evaluate the trained chain beside its baselines.

    python -m malt_fast.train                                        # the bundled demonstration
    python -m malt_fast.train --task.name gsm8k --task.path train.jsonl --run runs/gsm8k
    python -m malt_fast.train --help

Under `accelerate launch` (profiles/) or `torchrun`, a role's steps are shared by all processes; the
first one does everything else.

Does not: tune the base model's own weights.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from malt_fast import processes
from malt_fast.cluster import check_ray
from malt_fast.config import Config, load_config
from malt_fast.engines import Policy
from malt_fast.engines.choice import choose
from malt_fast.errors import MaltError
from malt_fast.evaluate import evaluate_run
from malt_fast.expand import answered, shape_from_branching
from malt_fast.forest import Credit, Forest, credit, load_forest, save_forest
from malt_fast.grade_report import sentence
from malt_fast.preferences import role_data, write_datasets, yield_rows, yield_table
from malt_fast.run import Run, exit_status, open_run, replacing_folder
from malt_fast.sampling import (
    Policies,
    Setup,
    check_loggers,
    forget_unfinished,
    grade_leaves,
    load_setup,
    sample,
)


def train(config: Config) -> Run:
    """The whole method: rounds of sampling and training, then the evaluation."""
    check_loggers(config.report_to)
    check_training(config)
    setup = load_setup(config)
    with open_run(config, "train") as run:
        keep_inputs(run, setup)
        sizes = {"train": len(setup.task.train), "held_out": len(setup.task.test)}
        run.log("questions", **sizes, odd=setup.task.report)
        run.say("engine: {} ({})".format(*choose(config)))
        base = setup.base()
        sft, final = base, base
        for index in range(config.train.rounds):
            sft, final = train_round(run, setup, index, final)
        processes.part()
        if not run.leads:
            return run
        publish(run, sft, final)
        if config.engine.name == "replay":  # it knows questions and paths, not who answers
            run.warn("recordings cannot tell trained roles from untrained ones: no evaluation")
        else:
            evaluate_run(run, setup, base, sft, final)
    return run


def keep_inputs(run: Run, setup: Setup) -> None:
    """Questions and prompts, which stay the same while the run goes on; else raises MaltError."""
    rows = [{"id": q.id, "text": q.text, "gold": q.gold} for q in setup.task.train]
    run.keep("questions.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    run.keep("prompts.json", setup.prompts.as_json())


def first_forest(config: Config) -> str:
    """Name of the forest that a round samples first."""
    return f"forest-{config.chain[0]}" if config.train.regenerate == "sequential" else "forest"


def check_training(config: Config) -> None:
    """Raises MaltError for ways of training that exclude each other, or lack their package."""
    settings = config.train
    if settings.side_by_side and settings.regenerate == "sequential":
        raise MaltError(
            "train.side_by_side and train.regenerate = sequential exclude each other, since there "
            "a role waits for those before it: choose one"
        )
    if settings.side_by_side and processes.count() > 1:
        raise MaltError(
            "train.side_by_side starts its own processes: start it by python, not by a launcher"
        )
    if settings.side_by_side:
        check_ray()
    if settings.load_in_4bit and find_spec("bitsandbytes") is None:
        raise MaltError(
            "train.load_in_4bit needs bitsandbytes, which is not installed: "
            "pip install 'malt-fast[qlora]'"
        )


def train_round(run: Run, setup: Setup, index: int, start: Policies) -> tuple[Policies, Policies]:
    """One round from the policies `start`: those after SFT, and those after DPO where it ran.

    All roles learn from one forest, or under `regenerate: sequential` each from a forest in which
    the roles before it are already trained.
    """
    config, sft, final = setup.config, dict(start), dict(start)
    if config.train.regenerate == "sequential":
        for level, role in enumerate(config.chain, 1):
            forest, values = look(run, setup, index, f"forest-{role}", final)
            stages = train_stages(run, setup, index, level, forest, values, start[role])
            sft[role], final[role] = stages
        return sft, final
    forest, values = look(run, setup, index, "forest", start)
    if config.train.side_by_side:
        from malt_fast.side_by_side import train_side_by_side

        trained = train_side_by_side(run, index, start)
    else:
        trained = [
            train_stages(run, setup, index, level, forest, values, start[role])
            for level, role in enumerate(config.chain, 1)
        ]
    for role, stages in zip(config.chain, trained, strict=True):
        sft[role], final[role] = stages
    return sft, final


def look(
    run: Run, setup: Setup, index: int, name: str, policies: Policies
) -> tuple[Forest, Credit]:
    """A forest of a round with its values, and on the terminal what it offers.

    Raises MaltError if the first one of a run offers nothing to anybody. A later one may: a chain
    that has become perfect has nothing more to learn.
    """
    first = index == 0 and not any(policy.adapter for policy in policies.values())
    forest = grow(run, setup, index, name, policies)
    values = propagate(setup.config, forest)
    rows = yield_rows(forest, values, setup.config)
    run.console.print(yield_table(rows))
    run.log("yield", roles=[vars(row) for row in rows])
    if first and not any(row.examples or row.pairs for row in rows):
        raise MaltError(
            "no role has a single example or pair to learn from: use more questions, a higher "
            "sampling temperature or an easier task, or set preferences.sft_source to all"
        )
    return forest, values


def grow(run: Run, setup: Setup, index: int, name: str, policies: Policies) -> Forest:
    """Sample the trees of all training questions and grade the leaves, or load them if done."""
    path = run.path(f"round-{index}", f"{name}.arrows")
    if not run.leads:
        processes.wait_for(path)
    if path.is_file():
        run.say(f"sample: {path.name} of round {index} is there already")
        return load_forest(path, setup.prompts.fingerprint)
    config, questions = setup.config, setup.task.train
    shape = shape_from_branching(config.tree.branching, [policies[role] for role in config.chain])
    path.parent.mkdir(exist_ok=True)
    with run.stage(f"sample round {index}", total=len(questions) * len(shape)) as (
        advance,
        figures,
    ):
        forest, told = sample(
            setup,
            questions,
            shape,
            f"{config.seed}/round-{index}",
            unfinished=path.parent,
            on_progress=lambda nodes, tokens: advance(nodes),
        )
        graded = grade_leaves(setup, forest, questions)
        save_forest(forest, path, setup.prompts.fingerprint)
        forget_unfinished(path.parent)
        figures |= {
            "trees": len(questions),
            "outputs": answered(forest),
            "tokens": len(forest.tokens),
        }
        figures["failed"] = len(forest) - len(questions) - answered(forest)
        figures["right"] = graded["verdicts"]["right"] / max(1, graded["outputs"])
        figures |= told
    run.log("grading", round=index, forest=name, **graded)
    run.say(sentence(graded))
    if graded["verdicts"]["nothing extracted"] > graded["outputs"] / 2:
        run.warn(
            "most outputs end without an answer: raise sampling.max_tokens, or see that the last "
            "role's prompt asks for the marker that the grader looks for (docs/grading.md)"
        )
    return forest


def propagate(config: Config, forest: Forest) -> Credit:
    """Values and labels of every node under the config's threshold and means."""
    tree = config.tree
    threshold = Fraction(str(tree.threshold))
    return credit(
        forest,
        (threshold.numerator, threshold.denominator),
        tree.inclusive,
        mean=tree.mean,
        pooling=tree.pooling,
    )


def train_stages(
    run: Run, setup: Setup, index: int, level: int, forest: Forest, values: Credit, start: Policy
) -> tuple[Policy, Policy]:
    """SFT of a role, then DPO where it gets it; the policies after each."""
    sft = train_role(run, setup, index, level, "sft", forest, values, start)
    if setup.config.chain[level - 1] not in setup.config.dpo_roles:
        return sft, sft
    return sft, train_role(run, setup, index, level, "dpo", forest, values, sft)


def train_role(
    run: Run,
    setup: Setup,
    index: int,
    level: int,
    stage: Literal["sft", "dpo"],
    forest: Forest,
    values: Credit,
    start: Policy,
) -> Policy:
    """Train one stage of one role from `start`; `start` itself if there is nothing to train on."""
    from malt_fast.trainer import train_stage  # torch and peft are needed only here

    config, role = setup.config, setup.config.chain[level - 1]
    out = run.path(f"round-{index}", role, stage)
    trained = Policy(start.base, str(out.absolute()))
    if out.is_dir():
        run.say(f"{stage} {role}: the adapter of round {index} is there already")
        return trained
    questions = [setup.prompts.encode_question(question.text) for question in setup.task.train]
    data = role_data(
        forest, values, level, questions, setup.prompts, config.preferences, config.seed, stage
    )
    rows = len(data.completions) if stage == "sft" else len(data.pairs)
    if not rows:
        what = "example" if stage == "sft" else "pair"
        run.warn(f"{stage} {role} is skipped: the forest holds no {what} for it")
        return start
    if run.leads:
        write_datasets(data, setup.prompts, run.path(f"round-{index}", "data", role), stage)
    out.parent.mkdir(parents=True, exist_ok=True)
    with run.stage(f"{stage} {role}") as (advance, figures):

        def on_log(line: dict[str, float]) -> None:
            advance(completed=line["step"], total=line["max_steps"])
            run.log(f"{stage}/{role}", **line)

        result = train_stage(
            stage,
            data,
            base=start.base,
            init_adapter=None if start.adapter is None else Path(start.adapter),
            out=out,
            lora=config.lora,
            args=getattr(config.train, stage).for_role(role),
            reference=config.train.reference,
            layout=config.train.packing,
            pack_tokens=config.train.pack_tokens,
            dtype=config.model.dtype,
            load_in_4bit=config.train.load_in_4bit,
            device=config.model.device,
            seed=config.seed,
            report_to=config.report_to,
            logging_dir=run.path("tensorboard", f"round-{index}", role, stage),
            on_log=on_log,
        )
        figures["examples" if stage == "sft" else "pairs"] = rows
        figures |= {
            key: result.metrics[key]
            for key in ("first_loss", "train_loss")
            if key in result.metrics
        }
    return trained


def publish(run: Run, sft: Policies, final: Policies) -> None:
    """Copy the adapters of the last round to adapters/ROLE/{sft,final}, where servers find them.

    All or none: a role whose adapter is missing counts as untrained.
    """
    with replacing_folder(run.path("adapters")) as folder:
        for name, policies in (("sft", sft), ("final", final)):
            for role, policy in policies.items():
                if policy.adapter is not None:
                    shutil.copytree(policy.adapter, folder / role / name)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: train(load_config(words, "malt_fast.train")))


if __name__ == "__main__":
    sys.exit(main())
