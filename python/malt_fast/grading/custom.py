"""Custom graders, named `module:function`."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast.utils.errors import MaltError, first_line

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
    """The source of a custom grader: its module, and the modules beside it that it uses, as far as
    these can be found."""
    first = inspect.getmodule(load_custom(grader))
    waiting, texts = [first] if first else [], {}
    while waiting:
        module = waiting.pop()
        try:
            texts[module.__name__] = inspect.getsource(module)
        except (OSError, TypeError):  # made at run time, or built in
            continue
        folder = os.path.dirname(inspect.getfile(module))
        for used in map(inspect.getmodule, vars(module).values()):
            beside = (getattr(used, "__file__", None) or "").startswith(folder)
            if used and beside and used.__name__ not in texts:
                waiting.append(used)
    return "\n".join([grader, *(texts[name] for name in sorted(texts))])


def score_custom(
    grader: str, completions: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> npt.NDArray[np.float64]:
    """float64[n]: the scores of a custom grader. Raises MaltError if it fails."""
    function = load_custom(grader)
    scores = np.empty(len(completions))
    for i, (text, row) in enumerate(zip(completions, rows, strict=True)):
        try:
            scores[i] = function(text, row)
        except (Exception, SystemExit) as error:
            raise MaltError(
                f"the grader '{grader}' failed on output {i} ({first_line(error)}): correct it"
            ) from None
        if not 0 <= scores[i] <= 1:
            raise MaltError(
                f"the grader '{grader}' gave {scores[i]} for output {i}: "
                "it must return a number from 0 to 1"
            )
    return scores
