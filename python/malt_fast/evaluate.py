"""Measure a finished run: `python -m malt_fast.evaluate --run DIR`.

Every system (the generator alone, the chain, majority votes of both, before and after training, and
the chain with one role untrained) answers the same held-out questions. All systems are sampled
together: an output that two systems share is sampled once, and pass k of every system uses the same
random numbers, so that differences between systems come from their weights. Figures have 95 %
intervals; differences to the fully trained, voting chain are paired by question.

`--suite paper` adds the paper's other systems (chains of some roles, a debate), its protocol, and
curves over the number of calls; all tables are written to tables/ and the curves to curves.svg.

The settings are those of the run's config.yaml; only `evaluate.*`, `engine.*`, the device and the
test set may be changed, and evaluation.json records them. A role without an adapter in
adapters/ROLE/{sft,final} answers as its base model.
"""

import sys
from collections.abc import Sequence

from malt_fast.config.arguments import Program
from malt_fast.config.changeable import EVALUATION_SETTINGS
from malt_fast.config.command import run_command
from malt_fast.config.schema import Config

PROGRAM = Program(
    "malt_fast.evaluate",
    Config,
    "Measures a finished run once more, on the same held-out questions or on others. The settings "
    "below `evaluate` and `engine`, the device and the test set may be changed.",
    ("--run runs/gsm8k", "--run runs/gsm8k --suite paper"),
    common=(
        *("run", "evaluate.suite", "evaluate.votes", "evaluate.limit"),
        *("evaluate.sampling.temperature", "task.test_path", "engine.name"),
    ),
    may_change=(*EVALUATION_SETTINGS, "report_to"),
    short={"suite": "evaluate.suite"},
)


def evaluate(config: Config) -> None:
    """Evaluate the finished run that `config` names, with its saved adapters."""
    # Imported here, after the first words: this takes longer than reading the command.
    from malt_fast.evaluation.run import evaluate_run
    from malt_fast.results.write_report import write_final_report
    from malt_fast.runs.loggers import loggers_of
    from malt_fast.runs.run import Run, writing
    from malt_fast.runs.saved import saved_policies, started_policies
    from malt_fast.sampling.prepare import load_setup

    assert config.run is not None
    loggers_of(config.report_to)
    # Nothing is trained here: the test set may contain training questions.
    task = config.task.model_copy(update={"decontaminate": False})
    setup, run = load_setup(config.model_copy(update={"task": task})), Run(config.run, config)
    run.expect("prompts.json", setup.prompts.as_json().encode())
    with writing(run):
        run.note("prompts.json", setup.prompts.as_json().encode())
        base = started_policies(run, setup.base())
        sft, final = saved_policies(config.run, base)
        evaluate_run(run, setup, base, sft, final, again=True)
        write_final_report(run)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
