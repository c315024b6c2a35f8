"""The terminal of a run."""

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

from malt_fast.utils.errors import printable

WIDTH = 160  # characters of a line where it is no terminal that shows it


class Terminal(Console):
    """Shows control characters in what it is given, and obeys none."""

    def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
        for text, style, control in super().render(*args, **options):
            yield Segment(text if control else printable(text), style, control)


def open_console(quiet: bool) -> Console:
    """The terminal, or a log file, which has room for wide tables."""
    return Terminal(quiet=quiet, width=None if sys.stdout.isatty() else WIDTH)
