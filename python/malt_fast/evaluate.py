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

from malt_fast.evaluation.run import evaluate_run
from malt_fast.results.report import finish
from malt_fast.runs.loggers import loggers_of
from malt_fast.runs.run import Run, writing
from malt_fast.runs.saved import MAY_CHANGE, saved_config, saved_policies
from malt_fast.sampling.prepare import load_setup
from malt_fast.utils.errors import MaltError
from malt_fast.utils.program import exit_status

PROGRAM = "malt_fast.evaluate"


def take(words: list[str], name: str) -> str | None:
    """The value of an option that is no setting, taken out of the command line."""
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == name:
            alone = not equals and (i + 1 == len(words) or words[i + 1].startswith("--"))
            if alone or not (value or not equals):
                raise MaltError(f"{name} needs a value: write `{name} VALUE`, see --help")
            found = value if equals else words[i + 1]
            del words[i : i + (1 if equals else 2)]
            return found
    return None


def reevaluate(argv: Sequence[str]) -> None:
    words = list(argv)
    suite = take(words, "--suite")
    words += ["--evaluate.suite", suite] if suite else []
    config = saved_config(words, PROGRAM, (*MAY_CHANGE, "report_to"))
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
        finish(run)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: reevaluate(words))


if __name__ == "__main__":
    sys.exit(main())
