"""Custom graders, named `module:function`: loaded, identified, and called for scores."""

import hashlib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsFloat

import numpy as np
import numpy.typing as npt

from malt_fast.grading.calls import Limits, called
from malt_fast.grading.kept_scores import KeptScores
from malt_fast.utils.errors import MaltError, first_line, one_line

ONE_BY_ONE = Limits()
START = 20  # outputs on all of which a grader may not fail

Custom = Callable[[str, Mapping[str, Any]], float]


def is_custom(grader: str) -> bool:
    """Whether a grader is custom, `module:function`."""
    return ":" in grader


def load_custom(grader: str) -> Custom:
    """The function that `module:function` names. Raises MaltError if it cannot be loaded."""
    module, _, name = grader.partition(":")
    try:
        function: Custom = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        raise MaltError(
            f"the grader '{grader}' cannot be loaded ({first_line(error)}): "
            "give module:function of a module on PYTHONPATH"
        ) from None
    if not callable(function):
        raise MaltError(f"the grader '{grader}' is no function: give module:function")
    return function


def code_of(grader: str) -> str:
    """What the scores of a custom grader depend on: the source of its module and of the modules
    beside it that it uses, as far as these can be found, and its attribute `identity`."""
    function = load_custom(grader)
    first = inspect.getmodule(function)
    waiting, texts = [first] if first else [], {}
    while waiting:
        module = waiting.pop()
        try:
            texts[module.__name__] = inspect.getsource(module)
        except (OSError, TypeError):  # made at run time, or built in
            continue
        for used in map(inspect.getmodule, vars(module).values()):
            if used and used.__name__ not in texts and _is_beside(used, module):
                waiting.append(used)
    own = [str(getattr(function, "identity", ""))]
    return "\n".join([grader, *own, *(texts[name] for name in sorted(texts))])


def _is_beside(used: ModuleType, module: ModuleType) -> bool:
    """Whether a module is in another's folder or below, and not of a package installed there."""
    path = Path(getattr(used, "__file__", None) or "/")
    installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    packages = {one.__name__.partition(".")[0] for one in (used, module)}
    return path.is_relative_to(Path(inspect.getfile(module)).parent) and (
        not installed or len(packages) == 1
    )


class CustomGrader:
    """A custom grader as a run calls it, and what came of it so far.

    Every different (row, output) is judged once; what the file `kept` holds, or one of `others`, is
    not judged again. An output on which the function fails, in spite of retries, has no score.
    """

    def __init__(
        self,
        grader: str,
        limits: Limits = ONE_BY_ONE,
        kept: Path | None = None,
        others: Sequence[Path] = (),
    ) -> None:
        self.grader, self.limits, self.function = grader, limits, load_custom(grader)
        self.kept = KeptScores(kept, others)
        self.digest = hashlib.blake2b(code_of(grader).encode(), digest_size=16)
        self.asked = self.failed = 0  # calls, without retries; outputs without a score
        self.failures: dict[str, str] = {}  # reasons by key
        self.scored = 0  # outputs that got a score
        self.seconds = 0.0  # of the calls for these, also of earlier ones
        self.on_scored: Callable[[int], object] = lambda outputs: None

    def scores(
        self, completions: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> npt.NDArray[np.float64]:
        """float64[n]: a score from 0 to 1, NaN where the function failed.

        Raises MaltError for any other score, and for a function that fails on the first START, or
        on as many as have a score: failures of an earlier run are asked for first.
        """
        keys = self._keys(completions, rows)
        with self.kept as kept:
            known = kept.scores.keys() | self.failures.keys()
            new = {k: i for i, k in reversed(list(enumerate(keys))) if k not in known}
            asked = sorted(new.values())
            self.on_scored(len(keys) - len(asked))
            enough = max(START, self.scored, sum(key in kept.scores for key in keys))
            failures: dict[int, str] = {}
            calls = [(completions[i], rows[i]) for i in asked]
            with closing(called(self.function, calls, self.limits)) as outcomes:
                for call, outcome in outcomes:
                    i = asked[call]
                    if outcome.error:
                        failures[call] = outcome.error
                        self._check_start(failures, enough)
                    else:
                        kept.add(keys[i], self._score(outcome.value, i), outcome.seconds)
                    self.on_scored(1)
            self.asked += len(asked)
            self.failures |= {keys[asked[call]]: failures[call] for call in sorted(failures)}
            found = [kept.scores.get(key) for key in keys]
        seconds = [score[1] for score in found if score]
        self.failed += len(found) - len(seconds)
        self.scored += len(seconds)
        self.seconds += sum(seconds)
        return np.array([score[0] if score else np.nan for score in found], np.float64)

    def figures(self) -> dict[str, Any]:
        """For the line of a stage: `failed` outputs, and `first_failure` if there is one."""
        figures: dict[str, Any] = {"judged": self.asked, "failed": self.failed}
        if self.failures:
            figures["first_failure"] = next(iter(self.failures.values()))
        return figures

    def _keys(self, completions: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
        begun = {}
        for row in rows:
            if id(row) not in begun:
                begun[id(row)] = self.digest.copy()
                begun[id(row)].update(repr(row).encode("utf-8", "replace"))
        keys = []
        for text, row in zip(completions, rows, strict=True):
            digest = begun[id(row)].copy()
            digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
            keys.append(digest.hexdigest())
        return keys

    def _check_start(self, failures: Mapping[int, str], enough: int) -> None:
        if len(failures) >= enough and all(call in failures for call in range(enough)):
            raise MaltError(
                f"the grader '{self.grader}' failed on all of the first {enough} outputs "
                f"({failures[0]}): correct it, or raise task.grader_timeout"
            )

    def _score(self, value: Any, i: int) -> float:
        number = isinstance(value, SupportsFloat) and not isinstance(value, str | bytes)
        try:
            score = float(value) if number else math.nan
        except (TypeError, ValueError):  # an array of several
            score = math.nan
        if not 0 <= score <= 1:
            raise MaltError(
                f"the grader '{self.grader}' gave {one_line(repr(value))} for output {i}: it must "
                "return a number from 0 to 1"
            )
        return score
