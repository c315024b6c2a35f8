"""Checks that the settings of a task fit together."""

from malt_fast.config.schema import TaskConfig
from malt_fast.grading.custom import is_custom
from malt_fast.grading.verdicts import GRADERS
from malt_fast.tasks.hub import is_hub_id
from malt_fast.utils.errors import MaltError, nearest


def check_task(task: TaskConfig) -> None:
    """Raises MaltError for settings that contradict each other."""
    if task.name == "arithmetic" and (task.path or task.test_path):
        raise MaltError(
            "the arithmetic task reads no file: give --task.name gsm8k, math, csqa or jsonl with "
            "--task.path"
        )
    if task.name == "arithmetic" and task.subset_seed is not None:
        raise MaltError("the arithmetic task makes its questions: leave task.subset_seed out")
    if task.name != "arithmetic" and task.path is None:
        raise MaltError(
            f"the {task.name} task needs questions: give --task.path FILE.jsonl, or OWNER/NAME of "
            "the hub"
        )
    _check_hub(task)
    for key in ("question_column", "answer_column"):
        changed = getattr(task, key) != type(task).model_fields[key].default
        if changed and task.name not in ("gsm8k", "jsonl"):
            raise MaltError(
                f"task.{key} is for gsm8k and jsonl, and {task.name} has fixed columns: "
                "leave it out"
            )
    _check_grader(task)


def _check_hub(task: TaskConfig) -> None:
    if any(map(is_hub_id, filter(None, (task.path, task.test_path)))):
        return
    for key in ("subset", "split", "test_split"):
        if getattr(task, key) != type(task).model_fields[key].default:
            raise MaltError(
                f"task.{key} is for data sets of the hub, and no path of the task names one: leave "
                "it out"
            )


def _check_grader(task: TaskConfig) -> None:
    known = ", ".join(GRADERS)
    if task.grader is None and task.name == "jsonl":
        raise MaltError(
            f"the jsonl task needs a grader: give --task.grader {known} or package.module:function"
        )
    if task.grader is None or task.grader in GRADERS:
        return
    if not is_custom(task.grader):
        raise MaltError(
            f"task.grader = '{task.grader}' is no grader ({nearest(task.grader, GRADERS)}): give "
            f"{known}, or your own function as package.module:function"
        )
    module, _, function = task.grader.partition(":")
    if not all(name.isidentifier() for name in [*module.split("."), function]):
        raise MaltError(
            f"task.grader = '{task.grader}' does not name a function: write package.module:function"
        )
