"""The graded forest of a round: sampled, or loaded where it is still current."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from malt_fast.engines import Policies
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.file import forest_of, read_forest, save_forest
from malt_fast.forest.forest import Credit, Forest
from malt_fast.forest.yields import tree_yield, yield_rows, yield_table
from malt_fast.grading.report import sentence
from malt_fast.runs.run import Run
from malt_fast.sampling.expand import Slot, answered, shape_from_branching
from malt_fast.sampling.grade import grade_leaves, grading_fingerprint
from malt_fast.sampling.monitor import TreeMonitor
from malt_fast.sampling.progress import SamplingFacts
from malt_fast.sampling.sample import fingerprint, sample
from malt_fast.sampling.sampled_trees import SampledTrees
from malt_fast.sampling.setup import Setup
from malt_fast.store.store import Ints, Store
from malt_fast.utils import distributed
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import make_folder


def look(
    run: Run, setup: Setup, index: int, name: str, policies: Policies
) -> tuple[Forest, Credit]:
    """A forest of a round with its values, and on the terminal what it offers.

    Raises MaltError if the first one of a run offers nothing to anybody. A later one may: a chain
    that has become perfect has nothing more to learn.
    """
    first = index == 0 and not any(policy.adapter for policy in policies.values())
    forest = grow(run, setup, index, name, policies)
    values = assign_credit(setup.config.tree, forest)
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
        distributed.wait_for(run.path("samples"))
        return distributed.wait_until(
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
    trees = SampledTrees(questions, shape, config.chain, setup.prompts, setup.task.grader)
    count = lambda forest: tree_yield(forest, assign_credit(config.tree, forest), config)  # noqa: E731
    facts = SamplingFacts(len(shape), TreeMonitor(trees, run.warn, count))
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
