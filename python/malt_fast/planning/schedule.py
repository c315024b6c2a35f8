"""The stages of a run in order, with the seconds that its plan gives each: for the live view."""

from malt_fast.config.schema import Config
from malt_fast.planning.plan_file import has_current_plan, read_plan
from malt_fast.runs.run import Run, Schedule, stage_label
from malt_fast.sampling.round_forest import forest_name, grading_stage, sampling_stage


def schedule(run: Run) -> Schedule:
    """The planned seconds of every stage of a run; None where it has no current plan."""
    names = [*stage_names(run.config)]
    planned = {
        (row.stage, row.role): 3600 * row.plan
        for row in (read_plan(run.folder)[1] if has_current_plan(run) else [])
        if row.quantity == "time"
    }
    seconds: Schedule = {}
    for index, name in names:
        kind, _, role = name.partition(" ")
        at = {"sample": ("sampling", ""), "grade": ("grading", "")}.get(kind, (name, role))
        alike = sum(other.split()[0] == kind for _, other in names)  # the plan has their sum
        parts = run.config.train.rounds if kind in ("sft", "dpo") else alike
        whole = planned.get(at, 0.0) if planned else None  # what nothing is learnt from is skipped
        seconds[index, name] = None if whole is None else whole / parts
    return seconds


def stage_names(config: Config) -> list[tuple[int | None, str]]:
    """(round, name) of every stage after the warm start, in order."""
    names: list[tuple[int | None, str]] = []
    for index in range(config.train.rounds):
        for role in config.chain:
            forest = forest_name(config, role)
            if config.train.regenerate == "sequential" or role == config.chain[0]:
                for stage in (sampling_stage(index), grading_stage(index)):
                    names.append((index, stage_label(stage, forest)))
            names += [(index, f"sft {role}"), (index, f"dpo {role}")][
                : 1 + (role in config.dpo_roles)
            ]
    return [*names, (None, "evaluate")]
