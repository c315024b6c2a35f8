"""The graded forest of a round: sampled, or loaded where it is still current."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from malt_fast._core.forest import DONE, UNGRADED, Credit, Forest
from malt_fast.config.schema import Config
from malt_fast.engines import Policies
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.file import forest_of, read_forest, save_forest
from malt_fast.forest.yields import tree_yield, yield_rows, yield_table
from malt_fast.grading.grade_report import sentence
from malt_fast.runs.run import Run
from malt_fast.sampling.allocation import Floats
from malt_fast.sampling.expand import Slot, answered, shape_from_branching
from malt_fast.sampling.grade import (
    custom_grader,
    grade_leaves,
    grading_fingerprint,
    warn_of_failures,
)
from malt_fast.sampling.monitor import TreeMonitor
from malt_fast.sampling.no_yield import nothing_to_learn
from malt_fast.sampling.progress import SamplingFacts
from malt_fast.sampling.sample import fingerprint, sample
from malt_fast.sampling.sampled_trees import SampledTrees
from malt_fast.sampling.setup import Setup, questions_file
from malt_fast.sampling.waves import Waves, allocation_of, identity, most_outputs
from malt_fast.store.store import Ints, Store
from malt_fast.utils import distributed
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import content_checksum, make_folder


def forest_name(config: Config, role: str) -> str:
    """The forest a role learns from: one for all roles, or its own where they learn in sequence."""
    return f"forest-{role}" if config.train.regenerate == "sequential" else "forest"


def learners(config: Config, name: str) -> list[str]:
    """The roles that learn from a forest."""
    return [role for role in config.chain if forest_name(config, role) == name]


def round_forest(run: Run, setup: Setup, index: int, name: str, policies: Policies) -> Forest:
    """The graded trees of all training questions, loaded where the saved ones are still current."""
    config, questions = setup.config, setup.task.train
    shape = shape_from_branching(config.tree.branching, [policies[role] for role in config.chain])
    seed = f"{config.seed}/round-{index}"
    path = run.path(f"round-{index}", f"{name}.arrows")
    graded = grading_fingerprint(setup, questions)
    right = right_before(run, setup, index, name) if index else None
    how = allocation_of(config, len(questions), learners(config, name), right=right)
    chosen_by = identity(config, how, graded) if how else ""
    sampled = fingerprint(setup, questions, shape, seed, chosen_by=chosen_by)
    if not run.leads:
        distributed.wait_for(run.path("samples"))
        distributed.wait_for(path)
        return distributed.wait_until(
            lambda: current_forest(path, run.read_samples(), sampled, graded)
        )
    store = run.samples.store
    forest = current_forest(path, store, sampled, graded)
    if forest is not None:
        run.say(f"sample: {path.name} of round {index} is there already")
        return forest
    make_folder(path.parent)
    custom = custom_grader(setup, run.folder)
    waves = Waves(setup, questions, how, custom) if how else None
    forest, rows = trees_to_regrade(path, store, sampled) or sample_trees(
        run, setup, index, name, shape, seed, waves
    )
    last = forest.level == len(config.chain)
    leaves = int(np.count_nonzero(last & (forest.state == DONE))) if custom else None
    stage = run.stage(grading_stage(index), leaves, round=index, forest=name)
    with stage as (shown, figures):
        if custom:
            custom.on_scored = shown.advance
        report = grade_leaves(setup, forest, questions, custom)
        parents = [slot.parent for slot in shape]
        asked = content_checksum(questions_file(setup))
        save_forest(path, forest, store, sampled, graded, parents, rows, asked)
        figures["right_share"] = report["verdicts"]["right"] / max(1, report["outputs"])
        figures |= custom.figures() if custom else {}
    warn_of_failures(custom, run.warn)
    run.log("grading", round=index, forest=name, **report)
    run.say(sentence(report))
    return forest


def report_yield(
    run: Run, setup: Setup, index: int, name: str, forest: Forest, values: Credit
) -> None:
    """Print and log how many examples and pairs a forest yields for each role.

    Raises MaltError if the first forest of a run yields none for any role. A later one may: a chain
    that answers everything correctly has nothing more to learn.
    """
    config = run.config
    rows = yield_rows(forest, values, config)
    run.console.print(yield_table(rows))
    tokens = [
        int(forest.token_len[forest.level == level].sum()) for level in range(1, len(rows) + 1)
    ]
    figures = [vars(row) | {"tokens": n} for row, n in zip(rows, tokens, strict=True)]
    run.log("yield", round=index, forest=name, roles=figures)
    first = index == 0 and name == forest_name(config, config.chain[0])
    if first and not any(row.examples or row.pairs or row.labelled for row in rows):
        raise MaltError(
            nothing_to_learn(run, setup, (sampling_stage(index), grading_stage(index)), forest)
        )


def right_before(run: Run, setup: Setup, index: int, name: str) -> Floats | None:
    """By question, the share of right leaves in the same forest of the round before; None if
    nothing depends on it."""
    if setup.config.tree.allocation == "full":
        return None
    file = read_forest(run.path(f"round-{index - 1}", f"{name}.arrows"), run.read_samples())
    if file is None or file.trees != len(setup.task.train):
        return None
    outcome = file.outcome.reshape(file.trees, -1)
    graded = (outcome != UNGRADED).sum(1)
    share = (outcome == 1).sum(1) / np.maximum(graded, 1)
    return np.where(graded > 0, share, np.nan)


def grading_stage(index: int) -> str:
    return f"grade round {index}"


def sampling_stage(index: int) -> str:
    return f"sample round {index}"


def sample_trees(
    run: Run,
    setup: Setup,
    index: int,
    name: str,
    shape: Sequence[Slot],
    seed: str,
    waves: Waves | None,
) -> tuple[Forest, Ints]:
    """The trees of all training questions, and the store's row of every node."""
    questions, config = setup.task.train, setup.config
    graded = (setup.task.grader, config.task.strict)
    trees = SampledTrees(questions, shape, config.chain, setup.prompts, *graded)
    count = lambda forest: tree_yield(forest, assign_credit(config.tree, forest), config)  # noqa: E731
    facts = SamplingFacts(
        None if waves else len(shape), run.warn, TreeMonitor(trees, run.warn, count)
    )
    where = {"round": index, "forest": name}
    most = most_outputs(config, len(questions))
    stage = run.stage(sampling_stage(index), most, facts, **where)
    with stage as (shown, figures):
        on_done = partial(facts.see, shown)
        forest, rows, engine_figures = sample(
            setup, run.samples, questions, shape, seed, on_done=on_done, next_wave=waves
        )
        figures |= {"trees": len(questions), "outputs": answered(forest)}
        figures |= waves.figures() if waves else {}
        figures |= {"tokens": int(forest.token_len.sum())}
        figures |= {"failed": 0, **engine_figures, **facts.failures.figures()}
    return forest, rows


def current_forest(path: Path, store: Store, sampled: str, graded: str) -> Forest | None:
    """The saved forest, if its fingerprints still match."""
    file = read_forest(path, store)
    if file is None or (file.fingerprint, file.grading) != (sampled, graded):
        return None
    return forest_of(file, store)


def trees_to_regrade(path: Path, store: Store, sampled: str) -> tuple[Forest, Ints] | None:
    """The saved trees without their outcomes, if they are current and only the grading changed."""
    file = read_forest(path, store)
    if file is None or file.fingerprint != sampled:
        return None
    forest = forest_of(file, store, graded=False)
    return None if forest is None else (forest, file.rows)
