"""How good are the trained roles? `python -m malt_fast.evaluate --run DIR`.

Every system (one answer alone, a chain, their votes, before and after training, each role left
untrained) answers the same held-out questions. One shape samples them all: outputs that two systems
have in common are sampled once, and pass k of every system draws the same random numbers, so that
differences between systems come from their weights. Figures have 95 % intervals; differences to the
fully trained, voting system are paired by question.

A run's own evaluation is repeated with the settings of its config.yaml; only those below `evaluate`
and `engine`, the device and the test set may be changed, and evaluation.json tells what they were.
Reads adapters/ROLE/{sft,final}; a role without one stays its base model.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from malt_fast.cli import parse_arguments
from malt_fast.config import Config, differences, flat, load_config
from malt_fast.engines import Policy
from malt_fast.errors import MaltError
from malt_fast.forest import save_forest
from malt_fast.run import Run, exit_status, write_text
from malt_fast.sampling import Policies, Setup, forget_unfinished, load_setup, sample
from malt_fast.scores import judge, summarise
from malt_fast.systems import Training, build_shape, systems_of

MAY_CHANGE = ("evaluate.", "engine.", "model.device", "task.test_path", "task.test_limit")


def evaluate_run(
    run: Run, setup: Setup, base: Policies, sft: Policies, final: Policies, *, again: bool = False
) -> dict[str, Any]:
    """Evaluate, print, write evaluation.json; a finished one is only printed, unless `again`."""
    path = run.path("evaluation.json")
    if path.is_file() and not again:
        run.say("evaluate: evaluation.json is there already")
    else:
        result = _evaluate(run, setup, {"base": base, "sft": sft, "final": final})
        settings = flat(run.config)
        chosen = [key for key in settings if key.startswith(("seed", *MAY_CHANGE))]
        result["settings"] = {key: settings[key] for key in chosen}
        write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    run.console.print(table(written))
    for line in describe(written):
        run.say(line)
    return written


def _evaluate(run: Run, setup: Setup, policies: dict[Training, Policies]) -> dict[str, Any]:
    config = run.config
    questions = setup.task.test[: config.evaluate.limit]
    if not questions:
        raise MaltError(
            "there are no held-out questions to evaluate on: give --task.test_path FILE.jsonl"
        )
    systems = systems_of(config.chain, config.evaluate.votes)
    shape, used = build_shape(systems, setup.wordings.numbers, policies)
    with run.stage("evaluate", total=len(questions) * len(shape)) as (advance, figures):
        forest, told = sample(
            setup,
            questions,
            shape,
            f"{config.seed}/evaluate",
            evaluating=True,
            unfinished=run.folder,
            on_progress=lambda nodes, tokens: advance(nodes),
        )
        save_forest(forest, run.path("evaluation.arrows"), setup.prompts.fingerprint)
        forget_unfinished(run.folder)
        judged = judge(forest, shape, questions, setup.prompts.decode, setup.task.grader)
        result = summarise(judged, systems, used, questions, config)
        figures |= {"questions": len(questions), "systems": len(systems)}
        figures |= {"outputs": int(np.count_nonzero(judged.tokens)), "tokens": len(forest.tokens)}
        figures |= told
    return result


def saved_policies(folder: Path, base: Policies) -> tuple[Policies, Policies]:
    """The (sft, final) policies of a run; a role without an adapter stays as it was before."""
    adapters = folder / "adapters"
    if not adapters.is_dir():
        raise MaltError(
            f"{folder} holds no adapters: finish it by python -m malt_fast.train --run {folder}"
        )
    sft = {role: _adapter(adapters / role / "sft", policy) for role, policy in base.items()}
    final = {role: _adapter(adapters / role / "final", policy) for role, policy in sft.items()}
    return sft, final


def _adapter(folder: Path, before: Policy) -> Policy:
    return Policy(before.base, str(folder.resolve())) if folder.is_dir() else before


def saved_config(argv: Sequence[str]) -> Config:
    """The config of the run that `--run` names, with what the command line may change in it."""
    values, wants_help = parse_arguments(argv)
    folder = values.get("run")
    if wants_help or folder is None:
        load_config(argv, "malt_fast.evaluate")  # prints the help, or finds a mistake to tell first
        raise MaltError("no run was named: give --run DIR, a directory that malt_fast.train made")
    saved = Path(str(folder)) / "config.yaml"
    if not saved.is_file():
        raise MaltError(f"{folder} holds no run: give a directory that malt_fast.train made")
    config = load_config(["--config", str(saved), *argv], "malt_fast.evaluate")
    before = load_config(["--config", str(saved)], "malt_fast.evaluate")
    fixed = [key for key in differences(before, config) if not key.startswith(MAY_CHANGE)]
    if fixed:
        raise MaltError(
            f"{', '.join(fixed)} cannot differ from what the run was trained with: leave it out, "
            "or train another run"
        )
    return config


def reevaluate(argv: Sequence[str]) -> None:
    config = saved_config(argv)
    assert config.run is not None
    setup, run = load_setup(config), Run(config.run, config)
    run.keep("prompts.json", setup.prompts.as_json())
    base = setup.base()
    evaluate_run(run, setup, base, *saved_policies(config.run, base), again=True)


# ---- what the terminal shows ----


def table(result: dict[str, Any]) -> Table:
    """evaluation.json as a table for the terminal."""
    against = {row["b"]: row for row in result["paired"]}
    malt = result["paired"][0]["a"]
    n = result["systems"][0]["n"]
    out = Table(
        title=f"{result['task']}, {n:,} held-out questions, seed {result['seed']}",
        caption=f"ahead: {malt} minus the system, same questions; p: exact McNemar test",
        box=SIMPLE,
        padding=0,
    )
    out.add_column("system", no_wrap=True)
    for name in ("right %", "95 %", "calls", "tokens", "ahead", "95 %", "p"):
        out.add_column(name, justify="right", no_wrap=True)
    for row in result["systems"]:
        cells = [f"{100 * row['accuracy']:.1f}", _interval(row["ci95"], "")]
        cells += [f"{row['calls_per_question']:.0f}", f"{row['tokens_per_question']:,.0f}"]
        other = against.get(row["name"])
        if other:
            cells += [f"{100 * other['difference']:+.1f}", _interval(other["ci95"], "+")]
            p = other["p_value"]
            cells.append(f"{p:.2g}" if p >= 1e-4 else "<1e-4")
        out.add_row(row["name"], *cells, style="bold" if row["name"] == malt else "")
    return out


def _interval(ci95: Sequence[float], sign: str) -> str:
    return "..".join(f"{100 * end:{sign}.1f}" for end in ci95)


def describe(result: dict[str, Any]) -> list[str]:
    """Beside the table: the gain, and what later roles do to the first one's answer."""
    lines = []
    if result["relative_gain"] is not None:
        malt, gain = result["paired"][0]["a"], 100 * result["relative_gain"]
        lines.append(f"{malt} against SA: {gain:+.2f} % relative")
    for name, share in result["flips"].items():
        mended, spoilt = share["wrong_to_right"], share["right_to_wrong"]
        turns = [t for t in result["turns"][name] if t["answered"] > 0.5]
        steps = " -> ".join(f"{t['role']} {100 * t['accuracy']:.1f}" for t in turns)
        lines.append(
            f"{name}: wrong to right {100 * mended:.1f} %, right to wrong {100 * spoilt:.1f} %; "
            f"right after each turn, %: {steps}"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: reevaluate(words))


if __name__ == "__main__":
    sys.exit(main())
