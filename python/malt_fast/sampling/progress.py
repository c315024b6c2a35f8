"""The status lines shown while trees are sampled."""

from collections.abc import Sequence

from malt_fast.engines import Completion, Engine
from malt_fast.runs.live_view import View
from malt_fast.sampling.failures import Failures
from malt_fast.sampling.monitor import TreeMonitor
from malt_fast.sampling.signs import Warn


class SamplingFacts:
    """Counts outputs and trees as they come; a call gives the status lines."""

    def __init__(self, outputs: int | None, warn: Warn, monitor: TreeMonitor | None = None) -> None:
        """outputs: of one tree; None: nobody knows when a tree ends."""
        self.outputs, self.monitor = outputs, monitor
        self.failures = Failures(warn)
        self.engine: Engine | None = None
        self.left: dict[int, int] = {}  # outputs to come, by open tree
        self.open = self.done = 0  # trees
        self.tokens = self.sampled = 0  # of all outputs, and of those that were not known before

    def see(
        self, shown: View, completions: Sequence[Completion], failed: Sequence[int], engine: Engine
    ) -> None:
        """Count what was settled; `failed` nodes have no output, and nothing comes below them."""
        self.engine = engine
        good = [one for one in completions if one.finish_reason != "error"]
        self.failures.see(completions, failed)
        if self.monitor is not None:
            self.monitor.see(completions)
        if self.outputs is not None:
            self._count_trees([*(one.id for one in good), *failed], self.outputs)
        self.tokens += sum(len(one.tokens) for one in good)
        before, known = self.sampled, int(engine.figures().get("reused_tokens", 0))
        self.sampled = max(before, self.tokens - known)  # known outputs may be still to come
        shown.advance(len(good) + len(failed), tokens=self.sampled - before)

    def _count_trees(self, nodes: Sequence[int], outputs: int) -> None:
        for node in nodes:
            tree = node // (outputs + 1)
            self.left[tree] = self.left.get(tree, outputs) - 1
            if not self.left[tree]:
                self._end(tree)
        self.open = len(self.left)

    def _end(self, tree: int) -> None:
        del self.left[tree]
        self.done += 1
        if self.monitor is not None:
            self.monitor.end(tree)

    def __call__(self) -> list[str]:
        figures = {} if self.engine is None else self.engine.figures()
        facts = [f"trees: {self.open:,} open, {self.done:,} done"] if self.outputs else []
        hits = figures.get("prefix_cache_hits")
        if hits is not None:
            facts.insert(0, f"{100 * hits:.0f} % of prompt tokens cached")
        if figures.get("reused"):
            facts.append(f"{figures['reused']:,} outputs known before")
        if self.failures.nodes:
            facts.append(f"{self.failures.nodes:,} outputs failed")
        seen = (
            [] if self.monitor is None else [self.monitor.summary(self.done), self.monitor.sample()]
        )
        return [" · ".join(facts), *seen]
