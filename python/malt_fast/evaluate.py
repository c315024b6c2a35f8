"""How good are the trained roles? `python -m malt_fast.evaluate --run DIR`.

Every system (one answer alone, a chain, their votes, before and after training, each role left
untrained) answers the same held-out questions. One shape samples them all: outputs that two systems
have in common are sampled once, and pass k of every system draws the same random numbers, so that
differences between systems come from their weights. Figures have 95 % intervals; differences to the
fully trained, voting system are paired by question.

`--suite paper` adds what the paper has beside (chains of some roles, a debate, its protocol),
curves over calls, and files of all tables: tables/, curves.svg.

A run's own evaluation is repeated with the settings of its config.yaml; only those below `evaluate`
and `engine`, the device and the test set may be changed, and evaluation.json tells what they were.
Reads adapters/ROLE/{sft,final}; a role without one stays its base model.
"""

import sys
from collections.abc import Sequence

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.schema import Config
from malt_fast.evaluation.run import evaluate_run
from malt_fast.results.report import write_final_report
from malt_fast.runs.loggers import loggers_of
from malt_fast.runs.run import Run, writing
from malt_fast.runs.saved import MAY_CHANGE, saved_policies
from malt_fast.sampling.prepare import load_setup

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
    may_change=(*MAY_CHANGE, "report_to"),
    short={"suite": "evaluate.suite"},
)


def reevaluate(config: Config) -> None:
    """Evaluate the finished run that a config names."""
    assert config.run is not None
    loggers_of(config.report_to)
    # Nothing is trained here, so that training questions may be asked again.
    task = config.task.model_copy(update={"decontaminate": False})
    setup, run = load_setup(config.model_copy(update={"task": task})), Run(config.run, config)
    run.expect("prompts.json", setup.prompts.as_json())
    base = setup.base()
    with writing(run):
        run.note("prompts.json", setup.prompts.as_json())
        evaluate_run(run, setup, base, *saved_policies(config.run, base), again=True)
        write_final_report(run)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, reevaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
