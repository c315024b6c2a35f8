"""How good are the trained roles? `python -m malt_fast.evaluate --run DIR`.

Every system (one answer alone, a chain, their votes, before and after training, each role left
untrained) answers the same held-out questions. One shape samples them all: outputs that two systems
have in common are sampled once, and pass k of every system draws the same random numbers, so that
differences between systems come from their weights. Figures have 95 % intervals; differences to the
fully trained, voting system are paired by question.

`--suite paper` adds what the paper has beside (chains of some roles, a debate, its protocol),
curves over calls, and files of all tables: tables/, curves.svg. `--sweep KEY=V1,V2` trains and
evaluates a run for each value of a setting (sweep.py).

A run's own evaluation is repeated with the settings of its config.yaml; only those below `evaluate`
and `engine`, the device and the test set may be changed, and evaluation.json tells what they were.
Reads adapters/ROLE/{sft,final}; a role without one stays its base model.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malt_fast.cli import parse_arguments
from malt_fast.config import Config, differences, flat, load_config
from malt_fast.engines import Policy
from malt_fast.errors import MaltError
from malt_fast.expand import Slot, answered
from malt_fast.files import read_checked, write_checked
from malt_fast.forest import Forest, save_forest
from malt_fast.live import SamplingFacts
from malt_fast.paper import paper_figures
from malt_fast.plots import plot_curves
from malt_fast.run import Run, exit_status, locked
from malt_fast.sampling import (
    OnDone,
    Policies,
    Samples,
    Setup,
    fingerprint,
    grading_fingerprint,
    load_setup,
    sample,
)
from malt_fast.scalars import loggers_of
from malt_fast.scores import judge, summarise
from malt_fast.seals import check_seal
from malt_fast.store import Ints
from malt_fast.systems import (
    System,
    Training,
    Used,
    build_shape,
    paper_systems,
    pools,
    systems_of,
)
from malt_fast.tables import (
    SUITE_TABLES,
    as_terminal,
    describe,
    main_table,
    suite_tables,
    write_tables,
)
from malt_fast.tasks import Question

PROGRAM = "malt_fast.evaluate"
MAY_CHANGE = ("evaluate.", "engine.", "model.device", "task.test_path", "task.test_limit")


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


@dataclass(frozen=True)
class Compared:
    """What an evaluation samples, and who uses which part of it."""

    questions: Sequence[Question]
    systems: list[System]
    pools: list[System]  # of the curves
    shape: list[Slot]
    slots: list[Used]  # of systems, then of pools


def compare(setup: Setup, policies: dict[Training, Policies]) -> Compared:
    """Raises MaltError where there is nothing to ask."""
    config = setup.config
    questions = setup.task.test[: config.evaluate.limit]
    if not questions:
        raise MaltError(
            "there are no held-out questions to evaluate on: give --task.test_path FILE.jsonl"
        )
    chain, votes, rounds = config.chain, config.evaluate.votes, config.train.rounds
    systems, curves = systems_of(chain, votes, rounds), []
    if config.evaluate.suite == "paper":
        systems = paper_systems(chain, votes, list(setup.task.extra), rounds)
        curves = pools(chain, config.evaluate.calls)
    shape, slots = build_shape([*systems, *curves], setup.wordings.numbers, policies)
    return Compared(questions, systems, curves, shape, slots)


def _seed(config: Config) -> str:
    return f"{config.seed}/evaluate"


def evaluation_fingerprint(setup: Setup, compared: Compared) -> str:
    """Of all that evaluation.json depends on."""
    config, questions = setup.config, compared.questions
    parts = [
        fingerprint(setup, questions, compared.shape, _seed(config), evaluating=True),
        grading_fingerprint(setup, questions),
        config.evaluate.model_dump_json(),
        config.seed,
        config.chain,
    ]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


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


def sample_systems(
    setup: Setup, samples: Samples, compared: Compared, on_done: OnDone | None = None
) -> tuple[Forest, Ints, dict[str, float]]:
    """The outputs of all systems to all questions."""
    return sample(
        setup,
        samples,
        compared.questions,
        compared.shape,
        _seed(setup.config),
        evaluating=True,
        on_done=on_done,
    )


def measure(setup: Setup, compared: Compared, forest: Forest) -> dict[str, Any]:
    """What evaluation.json says of the outputs of `sample_systems`."""
    config, questions, systems = setup.config, compared.questions, compared.systems
    used, pooled = compared.slots[: len(systems)], compared.slots[len(systems) :]
    graded = (setup.task.grader, config.task.min_score)
    judged = judge(forest, compared.shape, questions, setup.prompts.decode, *graded)
    result = summarise(judged, systems, used, questions, config) | {"task": setup.task.name}
    names = setup.wordings.names
    result["grading"] = {names[n - 1]: told for n, told in judged.grading.items()}
    if config.evaluate.suite == "paper":
        curves, extra = list(zip(compared.pools, pooled, strict=True)), list(setup.task.extra)
        result = paper_figures(result, judged, systems, used, curves, questions, config, extra)
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
    for role, policy in sft.items():  # one policy where there was no DPO
        if _weights(policy) and _weights(policy) == _weights(final[role]):
            final[role] = policy
    return sft, final


def _weights(policy: Policy) -> bytes | None:
    file = Path(policy.adapter or "") / "adapter_model.safetensors"
    return file.read_bytes() if file.is_file() else None


def _adapter(folder: Path, before: Policy) -> Policy:
    if not folder.is_dir():
        return before
    check_seal(folder)
    return Policy(before.base, str(folder.resolve()))


def saved_config(
    argv: Sequence[str], program: str, may_change: tuple[str, ...] = MAY_CHANGE
) -> Config:
    """The config of the run that `--run` names, with what the command line changes in it.

    Raises MaltError for a change of a setting that does not begin as one of `may_change` does.
    """
    values, wants_help = parse_arguments(argv)
    folder = values.get("run")
    if wants_help is not None or folder is None:
        load_config(argv, program)  # prints the help, or finds a mistake to tell first
        raise MaltError("no run was named: give --run DIR, a directory that malt_fast.train made")
    saved = Path(str(folder)) / "config.yaml"
    if not saved.is_file():
        raise MaltError(f"{folder} holds no run: give a directory that malt_fast.train made")
    config = load_config(["--config", str(saved), *argv], program)
    before = load_config(["--config", str(saved)], program)
    fixed = [key for key in differences(before, config) if not key.startswith(may_change)]
    if fixed:
        raise MaltError(
            f"{', '.join(fixed)} cannot differ from what the run was trained with: leave it out, "
            "or train another run"
        )
    return config


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
    suite, swept = take(words, "--suite"), take(words, "--sweep")
    words += ["--evaluate.suite", suite] if suite else []
    config = saved_config(words, PROGRAM, (*MAY_CHANGE, "report_to"))
    assert config.run is not None
    loggers_of(config.report_to)
    if swept is not None:
        from malt_fast.sweep import sweep  # it trains, and training evaluates

        sweep(config, swept)
        return
    from malt_fast.report import finish  # which reads what is made here

    # Nothing is trained here, so that training questions may be asked again.
    task = config.task.model_copy(update={"decontaminate": False})
    setup, run = load_setup(config.model_copy(update={"task": task})), Run(config.run, config)
    run.expect("prompts.json", setup.prompts.as_json())
    base = setup.base()
    with locked(run):
        run.note("prompts.json", setup.prompts.as_json())
        evaluate_run(run, setup, base, *saved_policies(config.run, base), again=True)
        finish(run)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: reevaluate(words))


if __name__ == "__main__":
    sys.exit(main())
