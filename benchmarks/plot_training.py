"""Loss curves of bench_training.py's report, contenders over each other.

python benchmarks/plot_training.py benchmarks/results/training.json
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

LOOK = ("#D55E00", "#0072B2", "#000000", "#009E73")  # Okabe and Ito's, for the colour-blind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path)
    args = parser.parse_args()
    stages = json.loads(args.report.read_text())["training"]
    figure, axes = plt.subplots(1, len(stages), figsize=(4 * len(stages), 3), layout="constrained")
    for axis, stage in zip(axes, stages, strict=True):
        for i, (name, losses) in enumerate(stage["losses"].items()):
            # wide lines below narrow ones, because the curves coincide
            axis.plot(losses, color=LOOK[i], linewidth=7 - 2 * i, alpha=0.6, label=name)
        axis.set(title=f"{stage['role']}'s {stage['stage'].upper()}", xlabel="step", ylabel="loss")
        axis.legend(frameon=False)
    out = args.report.with_name(f"{args.report.stem}_losses.svg")
    plt.rcParams["svg.fonttype"] = "none"
    figure.savefig(out, metadata={"Date": None})
    print(f"written to {out}")


if __name__ == "__main__":
    main()
