"""The facts shown while trees are sampled."""

from collections.abc import Sequence

from malt_fast.engines import Completion, Engine
from malt_fast.runs.live import View
from malt_fast.sampling.monitor import Growth


class SamplingFacts:
    """Of trees that grow; `watch` counts what they yield."""

    def __init__(self, tree: int, watch: Growth | None = None) -> None:
        """tree: outputs in one."""
        self.tree, self.watch = tree, watch
        self.engine: Engine | None = None
        self.left: dict[int, int] = {}  # outputs to come, of every open tree
        self.open = self.done = 0
        self.tokens = self.sampled = 0  # of all outputs, and of those not known before

    def see(
        self, shown: View, completions: Sequence[Completion], failed: Sequence[int], engine: Engine
    ) -> None:
        """What was settled; `failed` nodes have no output, and nothing will come below them."""
        self.engine = engine
        good = [one for one in completions if one.finish_reason != "error"]
        if self.watch is not None:
            self.watch.see(completions)
        for node in [*(one.id for one in good), *failed]:
            tree = node // (self.tree + 1)
            self.left[tree] = self.left.get(tree, self.tree) - 1
            if not self.left[tree]:
                self._end(tree)
        self.open = len(self.left)
        self.tokens += sum(len(one.tokens) for one in good)
        before, known = self.sampled, int(engine.figures().get("reused_tokens", 0))
        self.sampled = max(before, self.tokens - known)  # some may be known, and still to come
        shown.advance(len(good) + len(failed), tokens=self.sampled - before)

    def _end(self, tree: int) -> None:
        del self.left[tree]
        self.done += 1
        if self.watch is not None:
            self.watch.end(tree)

    def __call__(self) -> list[str]:
        told = {} if self.engine is None else self.engine.figures()
        facts = [f"trees: {self.open:,} open, {self.done:,} done"]
        hits = told.get("prefix_cache_hits")
        if hits is not None:
            facts.insert(0, f"{100 * hits:.0f} % of prompt tokens cached")
        if told.get("reused"):
            facts.append(f"{told['reused']:,} outputs known before")
        return [" · ".join(facts), "" if self.watch is None else self.watch.shown(self.done)]
