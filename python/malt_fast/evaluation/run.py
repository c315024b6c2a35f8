"""The evaluation of a run: sampled, measured, saved and shown."""

from typing import Any

from malt_fast._core.forest import Forest
from malt_fast.config.changeable import EVALUATION_SETTINGS
from malt_fast.config.load import flat
from malt_fast.engines import Completion, Engine, Policies
from malt_fast.evaluation.design import (
    EvaluationDesign,
    design_evaluation,
    evaluation_fingerprint,
    sample_systems,
    sampling_fingerprint,
)
from malt_fast.evaluation.judge import Judged, judge
from malt_fast.evaluation.outputs import OUTPUTS, write_outputs
from malt_fast.evaluation.paper import paper_figures
from malt_fast.evaluation.plots import plot_curves
from malt_fast.evaluation.result import EvaluationResult, read_result, write_result
from malt_fast.evaluation.scores import summarise
from malt_fast.evaluation.spent import tokens_spent, with_spent
from malt_fast.evaluation.tables import (
    SUITE_TABLES,
    as_terminal,
    describe,
    main_table,
    suite_tables,
    write_tables,
)
from malt_fast.forest.file import save_forest
from malt_fast.grading.custom import CustomGrader
from malt_fast.runs.run import Run
from malt_fast.sampling.expand import answered
from malt_fast.sampling.grade import custom_grader, warn_of_failures
from malt_fast.sampling.progress import SamplingFacts
from malt_fast.sampling.sampled_trees import SampledTrees
from malt_fast.sampling.setup import Setup
from malt_fast.sampling.signs import Signs


def evaluate_run(
    run: Run, setup: Setup, base: Policies, sft: Policies, final: Policies, *, again: bool = False
) -> EvaluationResult:
    """Evaluate, write evaluation.json and show its tables.

    A previous evaluation with the same fingerprint is only shown, unless `again`.
    """
    design = design_evaluation(setup, {"base": base, "sft": sft, "final": final})
    made_from = evaluation_fingerprint(setup, design)
    result = None if again else read_previous_evaluation(run)
    if result is not None and result.made_from == made_from:
        run.say("evaluate: evaluation.json is there already")
    else:
        result = sample_and_measure(run, setup, design)
        kept = {"settings": changeable_settings(run), "made_from": made_from}
        kept["sampled_from"] = sampling_fingerprint(setup, design)
        result = result.model_copy(update=kept)
        write_result(run.path("evaluation.json"), result)
        run.log("evaluation", task=result.task, right=result.accuracy)
        remove_tables(run)
    show(run, result)
    return result


def read_previous_evaluation(run: Run) -> EvaluationResult | None:
    """The previous evaluation, if it can be read."""
    path = run.path("evaluation.json")
    try:
        return read_result(path)
    except FileNotFoundError:
        return None
    except ValueError:
        run.warn(f"{path} is damaged or of another version: the run is evaluated again")
        return None


def sample_and_measure(run: Run, setup: Setup, design: EvaluationDesign) -> EvaluationResult:
    """Sample all systems into evaluation.arrows, with progress, and measure them.

    What each output answered is written to evaluation.jsonl.
    """
    shape, store = design.shape, run.samples.store
    facts, signs = SamplingFacts(len(shape), run.warn), evaluation_signs(run, setup, design)
    with run.stage("evaluate", len(design.questions) * len(shape), facts) as (shown, figures):

        def on_done(completions: list[Completion], failed: list[int], engine: Engine) -> None:
            facts.see(shown, completions, failed, engine)
            signs.see(completions)

        forest, rows, of_engine = sample_systems(setup, run.samples, design, on_done)
        made_from, parents = sampling_fingerprint(setup, design), [slot.parent for slot in shape]
        save_forest(run.path("evaluation.arrows"), forest, store, made_from, "", parents, rows, "")
        custom = custom_grader(setup, run.folder)
        judged = judge_outputs(setup, design, forest, custom)
        outputs = write_outputs(run.path(OUTPUTS), judged, design, setup.config)
        result = measure(setup, design, judged).model_copy(update={"outputs": outputs})
        systems = (system for system, _ in design.systems.values())
        result = with_spent(result, systems, tokens_spent(run.folder, run.config))
        figures |= {"questions": len(design.questions), "systems": len(design.systems)}
        figures |= {"outputs": answered(forest), "tokens": int(forest.token_len.sum())}
        figures |= {"failed": 0, **of_engine, **facts.failures.figures()}
    warn_of_failures(custom, lambda text, kind: run.warn(f"evaluation: {text}", kind))
    return result


def evaluation_signs(run: Run, setup: Setup, design: EvaluationDesign) -> Signs:
    """Watches the outputs of the chain's roles, whatever system they are of."""
    config = setup.config
    parts = (design.questions, design.shape, config.chain, setup.prompts)
    graded = (setup.task.grader, config.task.strict)
    warn = lambda text, kind: run.warn(f"evaluation: {text}", kind)  # noqa: E731
    return Signs(SampledTrees(*parts, *graded), warn, "evaluate.sampling", siblings=False)


def judge_outputs(
    setup: Setup, design: EvaluationDesign, forest: Forest, custom: CustomGrader | None = None
) -> Judged:
    """The verdicts on the outputs that `sample_systems` returned. custom: as for `judge`."""
    task, custom = setup.config.task, custom or custom_grader(setup)
    graded = (setup.task.grader, task.min_score, task.strict, custom)
    return judge(forest, design.shape, design.questions, setup.evaluation_prompts.reply, *graded)


def measure(setup: Setup, design: EvaluationDesign, judged: Judged) -> EvaluationResult:
    """The figures of outputs that were judged."""
    task, config, names = setup.task, setup.config, setup.evaluation_prompts.names
    result = summarise(judged, design, config)
    if config.evaluate.suite == "paper":
        result = paper_figures(result, judged, design, config)
    grading = {names[number - 1]: figures for number, figures in judged.grading.items()}
    return result.model_copy(update={"task": task.name, "grading": grading})


def changeable_settings(run: Run) -> dict[str, Any]:
    """The settings in which two evaluations of one run may differ, and its seed."""
    settings = flat(run.config)
    return {
        key: settings[key] for key in settings if key.startswith(("seed", *EVALUATION_SETTINGS))
    }


def remove_tables(run: Run) -> None:
    """Remove the tables and curves of a previous evaluation."""
    for name in SUITE_TABLES:
        for file in run.path("tables").glob(f"{name}.*"):
            file.unlink()
    run.path("curves.svg").unlink(missing_ok=True)


def show(run: Run, result: EvaluationResult) -> None:
    """Print the figures, and write the tables and curves of the suite `paper`."""
    run.console.print(as_terminal(main_table(result), bold=result.malt))
    for line in describe(result):
        run.say(line)
    if result.suite == "paper":
        write_tables(run.path("tables"), suite_tables(result))
        plot_curves(run.path("curves.svg"), result)
        run.say(f"tables: {run.path('tables')}, curves: {run.path('curves.svg')}")
