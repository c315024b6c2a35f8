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

import json
import shutil
import sys
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from malt_fast import alarms, processes
from malt_fast.alarms import Growth
from malt_fast.cluster import check_ray
from malt_fast.config import Config, dump, load_config
from malt_fast.engines import Policy
from malt_fast.engines.adapter_files import is_untrained
from malt_fast.engines.choice import choose
from malt_fast.environment import environment
from malt_fast.errors import MaltError
from malt_fast.evaluate import evaluate_run
from malt_fast.expand import Slot, answered, shape_from_branching
from malt_fast.files import make_folder, replacing_folder, write_text
from malt_fast.forest import Credit, Forest, credit, forest_of, read_forest, save_forest
from malt_fast.grade_report import sentence
from malt_fast.live import SamplingFacts, training_facts
from malt_fast.plan import LONG, PROBE, fill_facts, make_plan, planned
from malt_fast.preferences import role_data, tree_yield, write_datasets, yield_rows, yield_table
from malt_fast.run import Run, check_folder, exit_status, open_run
from malt_fast.sampling import (
    Policies,
    Setup,
    fingerprint,
    grade_leaves,
    grading_fingerprint,
    load_setup,
    sample,
)
from malt_fast.scalars import loggers_of
from malt_fast.store import Ints, Store


def train(config: Config, planning: int | None = None) -> Run:
    """The whole method: rounds of sampling and training, then the evaluation.

    planning: only say what all that will take, by a probe of so many questions.
    """
    from malt_fast.report import finish  # which reads what is made here

    loggers_of(config.report_to)
    check_training(config)
    if config.run is not None and processes.leads():
        check_folder(config.run)
    setup = load_setup(config)
    with open_run(config, "train") as run:
        run.note("questions.jsonl", questions_text(setup))
        run.note("prompts.json", setup.prompts.as_json())
        sizes = {"train": len(setup.task.train), "held_out": len(setup.task.test)}
        run.log("questions", **sizes, odd=setup.task.report)
        run.note("environment.json", json.dumps(environment(), indent=2) + "\n")
        run.say("engine: {} ({})".format(*choose(config)))
        long = len(setup.task.train) > LONG and not planned(run)
        if run.leads and (planning is not None or long):
            make_plan(run, setup, planning or PROBE)
        if planning is not None:
            return run
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
        fill_facts(run)
        finish(run)
    return run


def questions_text(setup: Setup) -> str:
    rows = [{"id": q.id, "text": q.text, "gold": q.gold} for q in setup.task.train]
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def check_training(config: Config) -> None:
    """Raises MaltError for ways of training that exclude each other, or lack their package."""
    settings = config.train
    for folder in config.reuse:
        if not (folder / "samples").is_dir():
            raise MaltError(f"reuse: {folder} holds no samples: give a run directory that does")
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
    lengths = [int(forest.token_len[forest.level == i + 1].sum()) for i in range(len(rows))]
    told = [vars(row) | {"tokens": n} for row, n in zip(rows, lengths, strict=True)]
    run.log("yield", round=index, forest=name, roles=told)
    if first and not any(row.examples or row.pairs for row in rows):
        raise MaltError(
            "no role has a single example or pair to learn from: use more questions, a higher "
            "sampling temperature or an easier task, or set preferences.sft_source to all"
        )
    return forest, values


def grow(run: Run, setup: Setup, index: int, name: str, policies: Policies) -> Forest:
    """The graded trees of all training questions: loaded if they are as they would be made now."""
    config, questions = setup.config, setup.task.train
    shape = shape_from_branching(config.tree.branching, [policies[role] for role in config.chain])
    seed = f"{config.seed}/round-{index}"
    path = run.path(f"round-{index}", f"{name}.arrows")
    sampled = fingerprint(setup, questions, shape, seed)
    graded = grading_fingerprint(setup, questions)
    if not run.leads:
        processes.wait_for(run.path("samples"))
        return processes.wait_until(
            lambda: _there(path, run.read_samples(), sampled, graded) if path.is_file() else None
        )
    store = run.samples.store
    forest = _there(path, store, sampled, graded)
    if forest is not None:
        run.say(f"sample: {path.name} of round {index} is there already")
        return forest
    make_folder(path.parent)
    forest, rows = _ungraded(path, store, sampled) or sample_trees(
        run, setup, index, name, shape, seed
    )
    with run.stage(f"grade round {index}", round=index, forest=name) as (_, figures):
        verdicts = grade_leaves(setup, forest, questions)
        parents = [slot.parent for slot in shape]
        save_forest(path, forest, store, sampled, graded, parents, rows)
        figures["right"] = verdicts["verdicts"]["right"] / max(1, verdicts["outputs"])
    tell_grading(run, index, name, verdicts)
    return forest


def sample_trees(
    run: Run, setup: Setup, index: int, name: str, shape: Sequence[Slot], seed: str
) -> tuple[Forest, Ints]:
    """The trees of all training questions, and the store's row of every node."""
    questions, config = setup.task.train, setup.config
    watch = Growth(
        *(questions, shape, config.chain, setup.prompts, setup.task.grader),
        tell=lambda kind, text: run.warn(text, kind),
        count=lambda forest: tree_yield(forest, propagate(config, forest), config),
    )
    facts = SamplingFacts(len(shape), watch)
    where = {"round": index, "forest": name}
    stage = run.stage(f"sample round {index}", len(questions) * len(shape), facts, **where)
    with stage as (shown, figures):
        forest, rows, told = sample(
            setup,
            run.samples,
            questions,
            shape,
            seed,
            on_done=lambda *settled: facts.see(shown, *settled),
        )
        figures |= {
            "trees": len(questions),
            "outputs": answered(forest),
            "tokens": int(forest.token_len.sum()),
        }
        figures["failed"] = len(forest) - len(questions) - answered(forest)
        figures |= told
    return forest, rows


def _there(path: Path, store: Store, sampled: str, graded: str) -> Forest | None:
    """A forest that was made from all this before."""
    file = read_forest(path, store)
    if file is None or (file.fingerprint, file.grading) != (sampled, graded):
        return None
    return forest_of(file, store)


def _ungraded(path: Path, store: Store, sampled: str) -> tuple[Forest, Ints] | None:
    """The trees of a forest that was made from all this, but graded otherwise."""
    file = read_forest(path, store)
    if file is None or file.fingerprint != sampled:
        return None
    forest = forest_of(file, store, graded=False)
    return None if forest is None else (forest, file.rows)


def tell_grading(run: Run, index: int, name: str, told: dict[str, Any]) -> None:
    run.log("grading", round=index, forest=name, **told)
    run.say(sentence(told))


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
    from malt_fast.trainer import is_done, stage_fingerprint, train_stage  # imports torch and peft

    config, role = setup.config, setup.config.chain[level - 1]
    out = run.path(f"round-{index}", role, stage)
    trained = Policy(start.base, str(out.absolute()))
    questions = [setup.prompts.encode_question(question.text) for question in setup.task.train]
    data = role_data(
        forest, values, level, questions, setup.prompts, config.preferences, config.seed, stage
    )
    rows = len(data.completions) if stage == "sft" else len(data.pairs)
    if not rows:
        what = "example" if stage == "sft" else "pair"
        run.warn(f"{stage} {role} is skipped: the forest holds no {what} for it")
        return start
    weights = stage_weights(config, role, stage, start)
    made_from = stage_fingerprint(stage, data, **weights)
    done, rows_of = is_done(out, made_from), run.path(f"round-{index}", "data", role)
    if run.leads and not (done and (rows_of / f"{stage}.parquet").is_file()):
        write_datasets(data, setup.prompts, rows_of, stage)
    if done:
        run.say(f"{stage} {role}: the adapter of round {index} is there already")
        return trained
    make_folder(out.parent)
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    signs: set[str] = set()
    shows = run.stage(f"{stage} {role}", facts=lambda: training_facts(last), round=index)
    with shows as (shown, figures):

        def on_log(line: dict[str, float]) -> None:
            nonlocal first, last
            tokens = line.get("num_tokens", 0) - last.get("num_tokens", 0)
            first, last = first or line, {**last, **line}
            steps = {"at": int(line["step"]), "total": int(line["max_steps"])}
            shown.advance(**steps, tokens=max(0, int(tokens)))
            run.log(f"{stage}/{role}", round=index, **line)
            sign = alarms.collapsing(role, first, line)
            if sign and not signs:
                signs.add(sign)
                run.warn(sign, "collapsing")

        result = train_stage(
            stage,
            data,
            **weights,
            out=out,
            fingerprint=made_from,
            **stage_work(config),
            on_log=on_log,
        )
        if run.leads and is_untrained(str(out)):
            run.warn(alarms.ineffective(stage, role), "ineffective")
        figures["examples" if stage == "sft" else "pairs"] = rows
        figures |= {
            key: result.metrics[key]
            for key in ("first_loss", "train_loss")
            if key in result.metrics
        }
    return trained


def stage_weights(
    config: Config, role: str, stage: Literal["sft", "dpo"], start: Policy
) -> dict[str, Any]:
    """What decides the weights that `train_stage` comes to, beside the data."""
    return {
        "base": start.base,
        "init_adapter": None if start.adapter is None else Path(start.adapter),
        "lora": config.lora,
        "args": getattr(config.train, stage).for_role(role),
        "reference": config.train.reference,
        "dtype": config.model.dtype,
        "load_in_4bit": config.train.load_in_4bit,
        "seed": config.seed,
    }


def stage_work(config: Config) -> dict[str, Any]:
    """How `train_stage` gets there."""
    return {
        "layout": config.train.packing,
        "pack_tokens": config.train.pack_tokens,
        "device": config.model.device,
        "trust_remote_code": config.model.trust_remote_code,
    }


def publish(run: Run, sft: Policies, final: Policies) -> None:
    """Copy the adapters of the last round to adapters/ROLE/{sft,final}, where servers find them.

    All or none: a role whose adapter is missing counts as untrained. adapters/config.yaml is what
    they were trained with: the run's own may be changed before anything is made of it.
    """
    with replacing_folder(run.path("adapters")) as folder:
        write_text(folder / "config.yaml", dump(run.config))
        for name, policies in (("sft", sft), ("final", final)):
            for role, policy in policies.items():
                if policy.adapter is not None:
                    shutil.copytree(policy.adapter, folder / role / name)


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
