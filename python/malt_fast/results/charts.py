"""The page's charts as data: charts.js draws lines, macros.html draws bars.

Every chart carries its numbers as a table, for readers without JavaScript or without sight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from malt_fast.results.templates import Grid
from malt_fast.utils.errors import printable

Interval = Sequence[float]
Line = tuple[Sequence[float], Sequence[float]]  # x, y


@dataclass(frozen=True)
class Chart:
    """Lines over one axis."""

    title: str
    xlabel: str
    ylabel: str
    lines: Mapping[str, Line]
    bands: Mapping[str, Sequence[Interval]] = field(default_factory=dict)  # an interval per point
    names: Sequence[str] = ()  # of all charts of its kind: a line has the same colour in each

    def data(self) -> dict[str, Any]:
        """What charts.js reads: a column per line over all x; None where a line has no point."""
        x = sorted({a for xs, _ in self.lines.values() for a in xs})
        series = []
        for name, (xs, ys) in self.lines.items():
            band = self.bands.get(name)
            one: dict[str, Any] = {"name": printable(name), "y": _over(x, xs, ys)}
            one["colour"] = [*self.names, *self.lines].index(name)
            if band:
                one |= {end: _over(x, xs, [i[k] for i in band]) for k, end in enumerate(ENDS)}
            series.append(one)
        labels = {"title": self.title, "xlabel": self.xlabel, "ylabel": self.ylabel}
        return {key: printable(text) for key, text in labels.items()} | {"x": x, "series": series}

    def numbers(self) -> Grid:
        rows = [
            [name, _short(a), _short(b)]
            for name, (xs, ys) in self.lines.items()
            for a, b in zip(xs, ys, strict=True)
        ]
        return Grid(["", self.xlabel, self.ylabel], rows)


ENDS = ("low", "high")


def _over(x: Sequence[float], xs: Sequence[float], ys: Sequence[float]) -> list[float | None]:
    known = dict(zip(xs, ys, strict=True))
    return [known.get(a) for a in x]


@dataclass(frozen=True)
class Bars:
    """Horizontal bars: a value of every part for each name, end to end or side by side."""

    title: str
    unit: str
    names: Sequence[str]
    parts: Mapping[str, Sequence[float]]
    stacked: bool = False

    @property
    def longest(self) -> float:
        """The length of the longest bar, at least a little."""
        rows = list(zip(*self.parts.values(), strict=True))
        ends = [sum(row) if self.stacked else max(row) for row in rows]
        return max([*ends, 1e-9])

    def rows(self) -> list[tuple[str, list[tuple[str, str, float]]]]:
        """(name, [(part, value as text, percent of the longest bar)])."""
        return [
            (
                name,
                [
                    (part, _short(values[i]), round(100 * values[i] / self.longest, 2))
                    for part, values in self.parts.items()
                ],
            )
            for i, name in enumerate(self.names)
        ]


def _short(value: float) -> str:
    return f"{value:,.4g}"
