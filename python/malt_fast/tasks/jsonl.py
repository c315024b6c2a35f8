"""Any JSONL file with a question and an answer column.

With a custom grader the answer column is optional: such a grader sees the whole row.
"""

from pathlib import Path

from malt_fast.config.schema import TaskConfig
from malt_fast.grading.custom import is_custom
from malt_fast.grading.verdicts import can_read
from malt_fast.tasks.rows import by_columns, file_rows, make_questions, split_questions
from malt_fast.tasks.task import Question, Report


def questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question], Report]:
    """Questions of `task.path`, and of `task.test_path`, else a held-out tenth."""
    custom = is_custom(grader)

    def gold(answer: str) -> str:
        if not custom and not can_read(grader, answer):
            raise ValueError(
                f"the answer {answer[:40]!r} is not one that the {grader} grader reads"
            )
        return answer

    def read(path: str, split: str) -> list[Question]:
        reader = by_columns(task, gold, may_lack=custom)
        return make_questions(file_rows(Path(path)), path, split, task, reader)

    return *split_questions(task, read), {}
