"""The page's charts: matplotlib's, as SVG that takes its colours from the page.

Figures are drawn in colours that stand for the page's, and these are put in their place, so that a
chart follows light and dark. Every chart has its numbers beside it, in a table that unfolds.
"""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from malt_fast.results.html import (
    element,
    folded,
    grid,
    text,
)
from malt_fast.utils.errors import printable

COLOURS = {  # what matplotlib is given: what the page puts there
    "#010203": "currentColor",
    "#020304": "var(--dim)",
    "#030405": "var(--line)",
    "#040506": "var(--accent)",
    "#050607": "var(--good)",
    "#060708": "var(--bad)",
    "#070809": "var(--warn)",
}
FG, DIM, LINE, ACCENT, GOOD, BAD, WARN = COLOURS
CYCLE = (ACCENT, BAD, GOOD, WARN, DIM)
SIZE = (6.4, 3.4)  # inches of 72 px

Interval = Sequence[float]


def bars(title: str, rows: Sequence[tuple[str, float, Interval]], highlight: str) -> str:
    """A horizontal bar a row, of a share with its interval, in percent."""

    def draw(axis: Any) -> None:
        at = np.arange(len(rows))[::-1]
        share = 100 * np.array([row[1] for row in rows])
        low, high = 100 * np.array([row[2] for row in rows]).T
        colours = [ACCENT if row[0] == highlight else DIM for row in rows]
        axis.barh(at, share, 0.6, color=colours, alpha=0.75)
        spread = np.maximum(0, [share - low, high - share])
        axis.errorbar(share, at, xerr=spread, fmt="none", ecolor=FG, elinewidth=1.2)
        axis.set_yticks(at, [printable(row[0]) for row in rows])
        axis.set(xlabel="right, %", xlim=(0, None))
        axis.grid(axis="x", color=LINE)

    height = max(1.6, 0.28 * len(rows) + 0.8)
    cells = [
        [name, _percent(share), _percent(low), _percent(high)] for name, share, (low, high) in rows
    ]
    return chart(title, draw, (["system", "right %", "low", "high"], cells), (SIZE[0], height))


def lines(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    bands: Mapping[str, Sequence[Interval]] | None = None,
) -> str:
    """series: name to (x, y); bands: name to an interval a point."""

    def draw(axis: Any) -> None:
        for colour, (name, (x, y)) in zip(CYCLE * 9, series.items(), strict=False):
            axis.plot(x, y, color=colour, lw=1.8, label=printable(name), marker="o", ms=3)
            if bands and name in bands:
                axis.fill_between(x, *np.array(bands[name]).T, color=colour, alpha=0.15, lw=0)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.grid(color=LINE)

    points = [
        [name, _short(a), _short(b)]
        for name, (x, y) in series.items()
        for a, b in zip(x, y, strict=True)
    ]
    return chart(title, draw, (["", xlabel, ylabel], points), legend=len(series) > 1)


def stacks(
    title: str, names: Sequence[str], parts: Mapping[str, Sequence[float]], xlabel: str
) -> str:
    """A horizontal bar a name, of parts one after the other."""

    def draw(axis: Any) -> None:
        at, left = np.arange(len(names))[::-1], np.zeros(len(names))
        for colour, (part, values) in zip(
            (GOOD, BAD, ACCENT, WARN, DIM), parts.items(), strict=False
        ):
            axis.barh(at, values, 0.55, left=left, color=colour, alpha=0.8, label=printable(part))
            left = left + np.array(values, float)
        axis.set_yticks(at, [printable(name) for name in names])
        axis.set(xlabel=xlabel)
        axis.grid(axis="x", color=LINE)

    cells = [[name, *(_short(v[i]) for v in parts.values())] for i, name in enumerate(names)]
    height = max(1.6, 0.35 * len(names) + 1)
    return chart(title, draw, (["", *parts], cells), (SIZE[0], height), legend=len(parts) > 1)


def grouped(
    title: str, names: Sequence[str], parts: Mapping[str, Sequence[float]], xlabel: str
) -> str:
    """Horizontal bars beside each other, a group a name."""

    def draw(axis: Any) -> None:
        at, width = np.arange(len(names))[::-1], 0.7 / len(parts)
        for i, (colour, (part, values)) in enumerate(
            zip((GOOD, BAD, DIM), parts.items(), strict=False)
        ):
            place = at + (len(parts) / 2 - i - 0.5) * width
            axis.barh(place, values, width, color=colour, alpha=0.8, label=printable(part))
        axis.set_yticks(at, [printable(name) for name in names])
        axis.set(xlabel=xlabel)
        axis.grid(axis="x", color=LINE)

    cells = [[name, *(_short(v[i]) for v in parts.values())] for i, name in enumerate(names)]
    height = max(1.6, 0.4 * len(names) + 1)
    return chart(title, draw, (["", *parts], cells), (SIZE[0], height), legend=len(parts) > 1)


def chart(
    title: str,
    draw: Callable[[Any], None],
    numbers: tuple[Sequence[str], Sequence[Sequence[str]]],
    size: tuple[float, float] = SIZE,
    *,
    legend: bool = False,
) -> str:
    """A <figure> of what `draw` puts on an axis, and its numbers."""
    caption = element("figcaption", text(title))
    return element(
        "figure", caption + _svg(title, draw, size, legend) + folded("numbers", grid(*numbers))
    )


def _svg(title: str, draw: Callable[[Any], None], size: tuple[float, float], legend: bool) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    look = {
        **{"svg.fonttype": "none", "svg.hashsalt": printable(title), "text.parse_math": False},
        **{"text.color": FG, "axes.labelcolor": DIM, "axes.edgecolor": LINE, "font.size": 9},
        **{"xtick.color": DIM, "ytick.color": FG, "font.family": "sans-serif"},
    }
    with rc_context(look):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        axis = figure.subplots()
        axis.set_facecolor("none")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(length=0)
        draw(axis)
        if legend:
            figure.legend(loc="outside upper left", ncols=4, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _for_the_page(file.getvalue(), title)


def _for_the_page(svg: str, title: str) -> str:
    """The <svg> element alone, with a name, the page's colours, and ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'font: [^"]*?(\d+(?:\.\d+)?px) [^;"]*', r"font: \1 var(--sans)", svg)
    own = f"c{zlib.crc32(title.encode('utf-8', 'backslashreplace')):x}-"
    svg = re.sub(r'\bid="', f'id="{own}', svg)
    svg = re.sub(r"url\(#", f"url(#{own}", svg)
    svg = re.sub(r'xlink:href="#', f'xlink:href="#{own}', svg)
    for drawn, shown in COLOURS.items():
        svg = svg.replace(drawn, shown)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{text(title)}"', 1)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _short(value: float) -> str:
    return f"{value:,.4g}"
