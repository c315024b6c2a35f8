"""The evaluation of a run: sampled, measured, printed and saved."""

from pathlib import Path
from typing import Any

from malt_fast.config.load import flat
from malt_fast.engines import Policies
from malt_fast.evaluation.design import (
    Compared,
    _seed,
    compare,
    evaluation_fingerprint,
    measure,
    sample_systems,
)
from malt_fast.evaluation.plots import plot_curves
from malt_fast.evaluation.tables import (
    SUITE_TABLES,
    as_terminal,
    describe,
    main_table,
    suite_tables,
    write_tables,
)
from malt_fast.forest.file import save_forest
from malt_fast.runs.run import Run
from malt_fast.runs.saved import MAY_CHANGE
from malt_fast.sampling.expand import answered
from malt_fast.sampling.progress import SamplingFacts
from malt_fast.sampling.sample import fingerprint
from malt_fast.sampling.setup import Setup
from malt_fast.utils.files import read_checked, write_checked


def evaluate_run(
    run: Run, setup: Setup, base: Policies, sft: Policies, final: Policies, *, again: bool = False
) -> dict[str, Any]:
    """Evaluate, print, write evaluation.json; one made from all this is only printed, unless
    `again`."""
    path = run.path("evaluation.json")
    compared = compare(setup, {"base": base, "sft": sft, "final": final})
    made_from = evaluation_fingerprint(setup, compared)
    there = None if again else _there(run, path)
    if there is not None and there.get("made_from") == made_from:
        run.say("evaluate: evaluation.json is there already")
    else:
        result = _evaluate(run, setup, compared)
        settings = flat(run.config)
        chosen = [key for key in settings if key.startswith(("seed", *MAY_CHANGE))]
        result["settings"] = {key: settings[key] for key in chosen}
        result["made_from"] = made_from
        write_checked(path, result)
        right = {row["name"]: row["accuracy"] for row in result["systems"]}
        run.log("evaluation", task=result["task"], right=right)
        for name in SUITE_TABLES:  # of an evaluation before
            for file in run.path("tables").glob(f"{name}.*"):
                file.unlink()
        run.path("curves.svg").unlink(missing_ok=True)
    return _show(run, path)


def _there(run: Run, path: Path) -> dict[str, Any] | None:
    """An evaluation of before."""
    if not path.is_file():
        return None
    try:
        return read_checked(path)
    except ValueError:
        run.warn(f"{path} is damaged: the run is evaluated again")
        return None


def _show(run: Run, path: Path) -> dict[str, Any]:
    """Print an evaluation, and write its tables."""
    written = read_checked(path)
    run.console.print(as_terminal(main_table(written), bold=written["paired"][0]["a"]))
    for line in describe(written):
        run.say(line)
    if written.get("suite") == "paper":
        write_tables(run.path("tables"), suite_tables(written))
        plot_curves(run.path("curves.svg"), written)
        run.say(f"tables: {run.path('tables')}, curves: {run.path('curves.svg')}")
    return written


def _evaluate(run: Run, setup: Setup, compared: Compared) -> dict[str, Any]:
    questions, shape, seed = compared.questions, compared.shape, _seed(setup.config)
    facts = SamplingFacts(len(shape))
    with run.stage("evaluate", len(questions) * len(shape), facts) as (shown, figures):
        forest, rows, told = sample_systems(
            setup, run.samples, compared, lambda *settled: facts.see(shown, *settled)
        )
        sampled = fingerprint(setup, questions, shape, seed, evaluating=True)
        parents, store = [slot.parent for slot in shape], run.samples.store
        save_forest(run.path("evaluation.arrows"), forest, store, sampled, "", parents, rows)
        result = measure(setup, compared, forest)
        figures |= {"questions": len(questions), "systems": len(compared.systems)}
        figures |= {"outputs": answered(forest), "tokens": int(forest.token_len.sum())}
        figures |= told
    return result
