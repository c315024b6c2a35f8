"""Plots of bench_kernels.py's report: time and memory against tokens and vocabulary.

    python benchmarks/plot_kernels.py benchmarks/results/kernels_cpu.json [--format png svg]

Writes kernels_cpu_tokens, kernels_cpu_vocabulary and kernels_cpu_memory beside the report. A
contender has the same colour (Okabe and Ito's, for the colour-blind) and marker everywhere.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

LOOK = {
    "malt_fast": ("#D55E00", "o"),
    "torch": ("#000000", "s"),
    "torch linear_cross_entropy": ("#0072B2", "^"),
    "trl chunked": ("#009E73", "D"),
    "liger": ("#CC79A7", "v"),
    "liger SM90": ("#56B4E9", "P"),
    "cut-cross-entropy": ("#E69F00", "X"),
    "quack": ("#999999", "*"),
}
AXIS = {"tokens": "rows", "vocabulary": "vocabulary"}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def series(report: dict[str, Any], sweep: str) -> list[dict[str, Any]]:
    """The cases of a sweep in order."""
    cases = [entry for entry in report["cases"].values() if sweep in entry["case"]["sweeps"]]
    return sorted(cases, key=lambda entry: entry["case"][AXIS[sweep]])


def draw_time(ax: Axes, cases: list[dict[str, Any]], sweep: str, mode: str) -> None:
    """Medians in ms, with the range from the 20 % to the 80 % quantile."""
    for name, (colour, _) in LOOK.items():
        points = [
            (entry["case"][AXIS[sweep]], entry["contenders"][name][mode])
            for entry in cases
            if mode in entry["contenders"].get(name, {})
        ]
        if points:
            x = [at for at, _ in points]
            low, median, high = (
                [1e3 * t[key] for _, t in points] for key in ("q20_s", "median_s", "q80_s")
            )
            draw(ax, x, median, name)
            ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    finish(ax, sweep, "ms", "forward" if mode == "forward" else "forward and backward")


def draw_memory(ax: Axes, cases: list[dict[str, Any]], sweep: str) -> None:
    for name in LOOK:
        measured = [e for e in cases if "memory_bytes" in e["contenders"].get(name, {})]
        if measured:
            x = [entry["case"][AXIS[sweep]] for entry in measured]
            bytes_ = [entry["contenders"][name]["memory_bytes"]["both"] for entry in measured]
            draw(ax, x, [b / 1e6 for b in bytes_], name)
    fixed = "vocabulary" if sweep == "tokens" else "tokens"
    size = cases[0]["case"][AXIS[fixed]]
    finish(ax, sweep, "MB above the inputs", f"forward and backward, {fixed} {size:,}")


def draw(ax: Axes, x: list[float], y: list[float], name: str) -> None:
    colour, marker = LOOK[name]
    ours = name == "malt_fast"
    ax.plot(
        x,
        y,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=2.2 if ours else 1.2,
        zorder=3 if ours else 2,
        label=name,
    )


def finish(ax: Axes, sweep: str, unit: str, title: str) -> None:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ticks = sorted({float(x) for line in ax.lines for x in line.get_xdata()})
    ax.set_xticks([x for x, after in zip(ticks, [*ticks[1:], 9e9], strict=True) if after > 1.3 * x])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    ax.set_xlabel("tokens" if sweep == "tokens" else "tokens of the vocabulary")
    ax.set_ylabel(unit)
    ax.set_title(title, loc="left", fontsize=9)


def short(x: float) -> str:
    return f"{x / 1024:g}k" if x % 1024 == 0 else f"{x / 1000:.3g}k" if x >= 1000 else f"{x:g}"


def heading(report: dict[str, Any], case: dict[str, Any], free: tuple[str, ...]) -> str:
    environment = report["environment"]
    device = environment.get("gpu") or f"{environment['cpu']}, {environment['threads']} threads"
    sizes = {"rows": "tokens", "hidden": "hidden", "vocabulary": "vocabulary"}
    fixed = [f"{label} {case[key]:,}" for key, label in sizes.items() if key not in free]
    return f"linear_logprob, frozen head: {', '.join([*fixed, case['dtype']])}\n{device}"


def figures(report: dict[str, Any]) -> dict[str, Figure]:
    found = {}
    memory, memory_axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    for ax, sweep in zip(memory_axes, AXIS, strict=True):
        cases = series(report, sweep)
        case = cases[-1]["case"]
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
        for panel, mode in zip(axes, ("forward", "both"), strict=True):
            draw_time(panel, cases, sweep, mode)
        found[sweep] = figure
        draw_memory(ax, cases, sweep)
        figure.suptitle(heading(report, case, (AXIS[sweep],)), x=0.01, ha="left", fontsize=10)
    memory.suptitle(heading(report, case, tuple(AXIS.values())), x=0.01, ha="left", fontsize=10)
    found["memory"] = memory
    for figure in found.values():
        handles, labels = figure.axes[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path)
    parser.add_argument("--format", nargs="+", choices=["png", "svg"], default=["png", "svg"])
    parser.add_argument("--out", type=Path, help="folder, default the report's")
    args = parser.parse_args()
    report = json.loads(args.report.read_text())
    if not all(series(report, sweep) for sweep in AXIS):
        parser.error(f"{args.report} holds no sweep over {' and '.join(AXIS)}: measure all cases")
    folder = args.out or args.report.parent
    folder.mkdir(parents=True, exist_ok=True)
    plt.style.use("default")
    plt.rcParams.update(STYLE)
    for name, figure in figures(report).items():
        for suffix in args.format:
            path = folder / f"{args.report.stem}_{name}.{suffix}"
            figure.savefig(path, dpi=160, metadata={"Date": None} if suffix == "svg" else None)
            print(f"written to {path}")


if __name__ == "__main__":
    main()
