"""Empty charts for tests that do not look at them: drawing takes half of a tiny run's time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from matplotlib.figure import Figure

draw = Figure.savefig


def save_blank(_: Figure, file: str | Path | IO[str], **options: Any) -> None:
    """Stands in for Figure.savefig."""
    svg = '<svg width="1pt" height="1pt" xmlns="http://www.w3.org/2000/svg"></svg>'
    Path(file).write_text(svg) if isinstance(file, str | Path) else file.write(svg)


@contextmanager
def saving_by(save: Any) -> Iterator[None]:
    """Charts are saved by `save`: `save_blank` or `draw`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield
