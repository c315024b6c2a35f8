"""The method from Python, one function per step; every value in between can be inspected.

    import malt_fast.api as mf

    setup = mf.prepare("arithmetic", {"task.limit": 200})     settings, as in --help
    forest = mf.expand(setup)                                 outputs under every question
    forest.grade()                                            right or wrong, for every leaf
    values = mf.credit(forest)                                .value and .label of every node
    data = mf.preferences(forest, values, "verifier")         .sft and .dpo, rows for TRL too
    verifier = mf.RoleTrainer(data, "out/verifier").train()   adapters, as PEFT reads them
    mf.evaluate(setup, [verifier])                            every system on the same questions

This is the code of the programs without a run directory: outputs and adapters that are given no
folder live in memory or in a temporary one.

Only in `malt_fast.train`: several rounds, training side by side, logging.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from rich.console import Console

from malt_fast._core import forest as core
from malt_fast._core.forest import DONE, RESERVED, Credit
from malt_fast.config.load import make_config, with_task_defaults
from malt_fast.config.values import nested
from malt_fast.engines import Policies, Policy
from malt_fast.evaluation.design import design_evaluation, sample_systems
from malt_fast.evaluation.result import EvaluationResult
from malt_fast.evaluation.run import judge_outputs, measure
from malt_fast.evaluation.tables import as_terminal, describe, main_table
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.datasets import as_dataset
from malt_fast.forest.role_data import role_data
from malt_fast.sampling.expand import answered, shape_from_branching
from malt_fast.sampling.grade import grade_leaves
from malt_fast.sampling.prepare import load_setup
from malt_fast.sampling.sample import sample
from malt_fast.sampling.setup import Setup
from malt_fast.sampling.waves import Waves, allocation_of
from malt_fast.serving.pipeline import Pipeline
from malt_fast.store.store import Samples, open_store
from malt_fast.tasks.make_task import make_task
from malt_fast.tasks.task import Question, Task
from malt_fast.tasks.wording import RolePrompt
from malt_fast.training.stage import StageSpec
from malt_fast.utils.errors import MaltError, nearest, printable
from malt_fast.utils.quiet import silence_bitsandbytes

if TYPE_CHECKING:
    from malt_fast.forest.role_data import RoleData

__all__ = [
    "Evaluation",
    "Forest",
    "MaltError",
    "Pipeline",
    "Preferences",
    "Question",
    "RolePrompt",
    "RoleTrainer",
    "Setup",
    "Task",
    "Trained",
    "answering",
    "credit",
    "evaluate",
    "expand",
    "make_task",
    "preferences",
    "prepare",
]

Settings = Mapping[str, Any]  # by dotted name: {"tree.branching": [3, 3, 3]}
WIDTH = 100  # characters of a table


# ---- what to do ----


def prepare(task: str | Task = "arithmetic", settings: Settings | None = None) -> Setup:
    """Task, prompts and settings, checked against each other and the model, before any work.

    task: a name that `--task.name` takes, or one of `make_task`. settings: those of `--help`, over
    the defaults of a named task. Raises MaltError for the first mistake.
    """
    given = (settings or {}).items()
    if isinstance(task, Task):
        return load_setup(make_config(nested(given)), task=task)
    return load_setup(make_config(with_task_defaults(nested([("task.name", task), *given]))))


# ---- trees ----


@dataclass(frozen=True, eq=False, repr=False)
class Forest:
    """The trees of all training questions: columns of the C++ core, with texts and tables."""

    setup: Setup
    nodes: core.Forest  # columns by node: parent, level, state, outcome, token_len, ...

    def __len__(self) -> int:
        """The number of trees, one per question."""
        return len(self.setup.task.train)

    def __repr__(self) -> str:
        leaves = self.nodes.outcome[self._leaves()]
        graded = leaves[leaves != core.UNGRADED]
        right = (
            f"{graded.mean():.1%} of {len(graded):,} leaves right" if len(graded) else "ungraded"
        )
        chain = ", ".join(self.setup.config.chain)
        outputs = f"{answered(self.nodes):,} outputs of {chain}"
        return f"Forest({len(self):,} questions, {outputs}, {right})"

    def _leaves(self) -> np.ndarray:
        last = len(self.setup.config.chain)
        return np.flatnonzero((self.nodes.level == last) & (self.nodes.state == DONE))

    def grade(self) -> dict[str, Any]:
        """Set the outcome of every leaf by the task's grader; returns counts of the verdicts."""
        return grade_leaves(self.setup, self.nodes, self.setup.task.train)

    def text(self, node: int) -> str:
        """The text of a node: a question, or an output."""
        if self.nodes.level[node] == 0:
            return self.setup.task.train[node // self.nodes.tree_size].text
        return self.setup.prompts.decode(self.nodes.tokens_of(node))

    def to_table(self, values: Credit | None = None) -> pa.Table:
        """One row per node that was sampled; with `values` also `value` and `label` (1 positive, 0
        negative)."""
        nodes, ids = self.nodes, np.flatnonzero(self.nodes.state != RESERVED)
        names = np.array(["question", *self.setup.config.chain])
        questions = np.array([question.id for question in self.setup.task.train], object)
        level, outcome = nodes.level[ids], nodes.outcome[ids]
        done = (nodes.state[ids] == DONE) | (level == 0)
        columns: dict[str, Any] = {
            "node": ids,
            "question": pa.array(questions[ids // self.nodes.tree_size], pa.string()),
            "role": names[level],
            "parent": pa.array(nodes.parent[ids], mask=level == 0),
            "text": [
                self.text(i) if there else None
                for i, there in zip(ids.tolist(), done.tolist(), strict=True)
            ],
            "tokens": nodes.token_len[ids],
            "outcome": pa.array(outcome, mask=outcome == core.UNGRADED),
        }
        if values is not None:
            value, label = values.value[ids], values.label[ids]
            columns["value"] = pa.array(value, mask=np.isnan(value))
            columns["label"] = pa.array(label, mask=label < 0)
        return pa.table(columns)

    def to_pandas(self, values: Credit | None = None) -> Any:
        """The same table as a pandas.DataFrame."""
        return self.to_table(values).to_pandas()

    def show(self, tree: int = 0, values: Credit | None = None) -> str:
        """A tree as indented text, with the values of its nodes if they are given."""
        begin, lines = tree * self.nodes.tree_size, []
        waiting = [begin]
        while waiting:
            node = waiting.pop()
            if self.nodes.state[node] == RESERVED:  # it was not sampled
                continue
            first, n = int(self.nodes.first_child[node]), int(self.nodes.n_children[node])
            waiting += range(first + n - 1, first - 1, -1)
            value = "" if values is None else f"{values.value[node]:.2f}"
            indent = "  " * int(self.nodes.level[node])
            lines.append(f"{value:>5} {indent}{' '.join(self.text(node).split())}")
        return printable("\n".join(lines))


@contextmanager
def open_samples(folder: str | Path | None) -> Iterator[Samples]:
    """A store of outputs, in a temporary folder if none is given."""
    if folder is not None:
        yield Samples(open_store(Path(folder)))
        return
    with TemporaryDirectory() as fresh:
        yield Samples(open_store(Path(fresh)))


def expand(
    setup: Setup, trained: Sequence["Trained"] = (), *, samples: str | Path | None = None
) -> Forest:
    """Sample a tree under every training question, by `tree.branching` and `sampling`.

    trained: roles that answer with their adapters; the others are base models. samples: a folder in
    which outputs are kept and found again. The trees are those of round 0 of `malt_fast.train`;
    adaptive ones serve all roles.
    """
    config = setup.config
    policies = [_policies(setup, trained, "final")[role] for role in config.chain]
    shape = shape_from_branching(config.tree.branching, policies)
    questions = setup.task.train
    how = allocation_of(config, len(questions), config.chain)
    waves = Waves(setup, questions, how) if how else None
    with open_samples(samples) as store:
        seed = f"{config.seed}/round-0"
        nodes, _, _ = sample(setup, store, questions, shape, seed, next_wave=waves)
    return Forest(setup, nodes)


def credit(forest: Forest, *, threshold: float | None = None) -> Credit:
    """Values (NaN: none) and labels of all nodes, by the settings of `tree`.

    threshold: replaces `tree.threshold`.
    """
    tree = forest.setup.config.tree
    if threshold is not None:
        tree = tree.model_copy(update={"threshold": float(Fraction(str(threshold)))})
    return assign_credit(tree, forest.nodes)


# ---- training data ----


@dataclass(frozen=True, eq=False, repr=False)
class Preferences:
    """Examples and pairs of one role, as tokens."""

    setup: Setup
    role: str
    sft: "RoleData"
    dpo: "RoleData"

    def __repr__(self) -> str:
        examples, pairs = len(self.sft.completions), len(self.dpo.pairs)
        labelled = f", {len(self.dpo.labelled):,} labelled" if len(self.dpo.labelled) else ""
        return f"Preferences({self.role}, {examples:,} examples, {pairs:,} pairs{labelled})"

    def to_dataset(self, kind: Literal["sft", "dpo", "kto"]) -> Any:
        """A datasets.Dataset in TRL's columns, as forest/datasets.py describes them.

        The rows are those that the role learns from: no pairs under the kto loss, no labelled
        outputs under another.
        """
        return as_dataset(self.sft if kind == "sft" else self.dpo, self.setup.prompts, kind)


def preferences(forest: Forest, values: Credit, role: str) -> Preferences:
    """The training data of a role, by the settings of `preferences`."""
    setup = forest.setup
    config, prompts = setup.config, setup.prompts
    level = config.chain.index(known_role(setup, role)) + 1
    chosen = (forest.nodes, values, level, setup.task.train, prompts, config)
    return Preferences(setup, role, role_data(*chosen, "sft"), role_data(*chosen, "dpo"))


def known_role(setup: Setup, role: str) -> str:
    """`role` itself. Raises MaltError if it is not in the chain."""
    if role not in setup.config.chain:
        hint = nearest(role, setup.config.chain)
        raise MaltError(f"there is no role '{role}' in the chain: {hint}")
    return role


# ---- training ----


@dataclass(frozen=True)
class Trained:
    """A role after SFT and after DPO; both are the same policy if it got no DPO."""

    role: str
    sft: Policy
    final: Policy  # .adapter: a PEFT directory, or None if there was nothing to learn from


@dataclass
class RoleTrainer:
    """Trains one role: SFT, then DPO if `train.dpo_roles` has it.

    out: a folder for the adapters, out/sft and out/dpo; one that is there already and was made from
    the same data and settings is kept. start: the policy to start from, by default the base model.
    """

    data: Preferences
    out: str | Path
    start: Policy | None = None
    logs: dict[str, list[dict[str, float]]] = field(default_factory=dict, repr=False)
    """Log lines of each stage: step, loss, rewards/margins, ..."""

    def train(self, on_log: Callable[[dict[str, float]], None] | None = None) -> Trained:
        """Train both stages. on_log: called with each log line. Raises MaltError as train_stage."""
        config, role = self.data.setup.config, self.data.role
        sft = self._stage("sft", self.start or Policy(config.base_model(role)), on_log)
        final = self._stage("dpo", sft, on_log) if role in config.dpo_roles else sft
        return Trained(role, sft, final)

    def _stage(
        self,
        stage: Literal["sft", "dpo"],
        start: Policy,
        on_log: Callable[[dict[str, float]], None] | None,
    ) -> Policy:
        silence_bitsandbytes()
        from malt_fast.training.train_stage import train_stage  # imports torch and peft

        data: RoleData = getattr(self.data, stage)
        if not data.rows(stage):
            return start
        lines = self.logs[stage] = []

        def keep(line: dict[str, float]) -> None:
            lines.append(line)
            if on_log is not None:
                on_log(line)

        spec = StageSpec.of(self.data.setup.config, self.data.role, stage, start)
        out = (Path(self.out) / stage).absolute()
        if not spec.is_done(data, out):
            train_stage(spec, data, out, keep)
        return Policy(start.base, str(out))


Stages = Literal["sft", "final"]


def _policies(setup: Setup, trained: Sequence[Trained], after: Stages) -> Policies:
    """The policy of each role: its base model, unless it is among `trained`."""
    known = {known_role(setup, one.role): getattr(one, after) for one in trained}
    return setup.base() | known


# ---- results ----


def answering(setup: Setup, trained: Sequence[Trained] = ()) -> Pipeline:
    """A pipeline that answers questions by the chain; close it, or use it in a `with` block."""
    return Pipeline.of(setup, _policies(setup, trained, "final"))


class Evaluation(EvaluationResult):
    """The figures that a program writes to evaluation.json; it prints as their table."""

    def __str__(self) -> str:
        terminal = Console(file=StringIO(), width=WIDTH)
        terminal.print(as_terminal(main_table(self)))
        for line in describe(self):
            terminal.print(line, markup=False, highlight=False, soft_wrap=True)
        text: str = terminal.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())

    __repr__ = __str__


def evaluate(
    setup: Setup, trained: Sequence[Trained] = (), *, samples: str | Path | None = None
) -> Evaluation:
    """Every system on the same held-out questions: roles alone, the chain, votes, ablations.

    Arguments as in `expand`.
    """
    sft, final = _policies(setup, trained, "sft"), _policies(setup, trained, "final")
    design = design_evaluation(setup, {"base": setup.base(), "sft": sft, "final": final})
    with open_samples(samples) as store:
        outputs, _, _ = sample_systems(setup, store, design)
    return Evaluation(**dict(measure(setup, design, judge_outputs(setup, design, outputs))))
