"""Keeps libraries from talking over the run's own progress."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No chatter from transformers and its kin: what matters raises, or is logged by the caller."""
    from transformers.utils import logging as loud

    level, bars = loud.get_verbosity(), loud.is_progress_bar_enabled()
    loud.set_verbosity_error()
    loud.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(peft|transformers|accelerate|torch)\b")
            yield
    finally:
        loud.set_verbosity(level)
        if bars:
            loud.enable_progress_bar()


def hush() -> None:
    """At its import, which is peft's, bitsandbytes warns of a kernel that it does not find."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
