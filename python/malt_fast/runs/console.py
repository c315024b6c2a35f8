"""The terminal of a run, or the log file in its place."""

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

from malt_fast.utils.errors import printable

WIDTH = 160  # characters per line of a log file, which has room for wide tables


class Terminal(Console):
    """Prints control characters of the texts it is given in escaped form."""

    def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
        for text, style, control in super().render(*args, **options):
            yield Segment(text if control else printable(text), style, control)


def open_console(quiet: bool) -> Console:
    return Terminal(quiet=quiet, width=None if sys.stdout.isatty() else WIDTH)
