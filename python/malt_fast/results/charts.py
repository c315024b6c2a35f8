"""The page's charts: SVG by matplotlib that takes its colours from the page.

Figures are drawn in placeholder colours, which are then replaced by the page's variables, so that a
chart follows the light and the dark theme. Every chart carries its numbers as a table.
"""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from malt_fast.results.templates import Grid, trusted
from malt_fast.utils.errors import printable

COLOURS = {  # drawn by matplotlib: shown on the page
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


@dataclass(frozen=True)
class Chart:
    title: str
    svg: Markup
    numbers: Grid


def bars(title: str, rows: Sequence[tuple[str, float, Interval]], highlight: str) -> Chart:
    """Shares with their intervals as horizontal bars, in percent; rows: (name, share, interval)."""

    def draw(axis: Any) -> None:
        at = np.arange(len(rows))[::-1]
        share = 100 * np.array([row[1] for row in rows])
        low, high = 100 * np.array([row[2] for row in rows]).T
        colours = [ACCENT if row[0] == highlight else DIM for row in rows]
        axis.barh(at, share, 0.6, color=colours, alpha=0.75)
        spread = np.maximum(0, [share - low, high - share])
        axis.errorbar(share, at, xerr=spread, fmt="none", ecolor=FG, elinewidth=1.2)
        axis.set_yticks(at, [printable(row[0]) for row in rows])
        axis.set(xlabel="accuracy, %", xlim=(0, None))
        axis.grid(axis="x", color=LINE)

    height = max(1.6, 0.28 * len(rows) + 0.8)
    cells = [
        [name, *(f"{100 * value:.1f}" for value in (share, *interval))]
        for name, share, interval in rows
    ]
    numbers = Grid(["system", "acc. %", "low", "high"], cells)
    return Chart(title, _svg(title, draw, (SIZE[0], height)), numbers)


def lines(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    bands: Mapping[str, Sequence[Interval]] | None = None,
) -> Chart:
    """series: name to (x, y); bands: name to one interval per point."""

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
    svg = _svg(title, draw, legend=len(series) > 1)
    return Chart(title, svg, Grid(["", xlabel, ylabel], points))


def grouped(
    title: str,
    names: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    xlabel: str,
    *,
    stacked: bool = False,
) -> Chart:
    """One group of horizontal bars per name; parts: a value per name. Stacked: end to end."""

    def draw(axis: Any) -> None:
        at, left = np.arange(len(names))[::-1].astype(float), np.zeros(len(names))
        width = 0.55 if stacked else 0.7 / len(parts)
        colours = (GOOD, BAD, ACCENT, WARN, DIM) if stacked else (GOOD, BAD, DIM)
        for i, (colour, (part, values)) in enumerate(zip(colours, parts.items(), strict=False)):
            place = at if stacked else at + (len(parts) / 2 - i - 0.5) * width
            look = {"left": left, "color": colour, "alpha": 0.8, "label": printable(part)}
            axis.barh(place, values, width, **look)
            left = left + np.array(values, float) if stacked else left
        axis.set_yticks(at, [printable(name) for name in names])
        axis.set(xlabel=xlabel)
        axis.grid(axis="x", color=LINE)

    height = max(1.6, (0.35 if stacked else 0.4) * len(names) + 1)
    cells = [[name, *(_short(v[i]) for v in parts.values())] for i, name in enumerate(names)]
    svg = _svg(title, draw, (SIZE[0], height), legend=len(parts) > 1)
    return Chart(title, svg, Grid(["", *parts], cells))


def _svg(
    title: str,
    draw: Callable[[Any], None],
    size: tuple[float, float] = SIZE,
    *,
    legend: bool = False,
) -> Markup:
    """What `draw` puts on an axis."""
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
    return _fit_page(file.getvalue(), title)


def _fit_page(svg: str, title: str) -> Markup:
    """The <svg> element alone, with a label, the page's colours and font, and ids of its own."""
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
    label = escape(printable(title))
    return trusted(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def _short(value: float) -> str:
    return f"{value:,.4g}"
