"""Any file or hub data set with a question and an answer column.

With a custom grader the answer column is optional: such a grader sees the whole row.
"""

from malt_fast.config.schema import TaskConfig
from malt_fast.grading.custom import is_custom
from malt_fast.grading.verdicts import can_read, gold_answer
from malt_fast.tasks.rows import Rows, by_columns, make_questions, split_questions
from malt_fast.tasks.task import Question, Report


def questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question], Report]:
    """Questions of `task.path`, and held-out ones as split_questions says."""
    custom = is_custom(grader)

    def gold(answer: str) -> str:
        if not custom and not can_read(grader, gold_answer(grader, answer)):
            raise ValueError(
                f"the answer {answer[:40]!r} is not one that the {grader} grader reads"
            )
        return answer

    reader = by_columns(task, gold, may_lack=custom)

    def make(rows: Rows, source: str, kind: str) -> list[Question]:
        return make_questions(rows, source, kind, task, reader)

    return *split_questions(task, make), {}
