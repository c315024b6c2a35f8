"""Stopping in two steps: the first Ctrl-C (or SIGTERM) lets the step in flight finish, a second one
stops at once.

Loops call `check` where they can stop without loss.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = b"\nstopping after the step in flight; once more (Ctrl-C) stops at once\n"

_asked = False


@contextmanager
def two_steps() -> Iterator[None]:
    """Handle signals this way within; only in the main thread."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, _handle) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        _asked = False


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        raise KeyboardInterrupt
    _asked = True
    os.write(2, MESSAGE)  # print may be what was interrupted


def asked() -> bool:
    return _asked


def check() -> None:
    """Raises KeyboardInterrupt if the user asked for a stop."""
    if _asked:
        raise KeyboardInterrupt
