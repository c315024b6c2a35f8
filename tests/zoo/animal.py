"""A checkpoint of the zoo in a folder, and what checks make with it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from malt_fast import train
from malt_fast.config.command import read_command
from malt_fast.config.schema import PACKAGE
from malt_fast.sampling.prepare import load_prompts
from malt_fast.tasks.load import load_task
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Task
from malt_fast.utils.errors import MaltError
from tests.zoo.build import build, build_tokenizer
from tests.zoo.corpus import write_csqa, write_gsm8k
from tests.zoo.entries import Entry
from tests.zoo.runs import tiny_run
from tests.zoo.templates import TEMPLATES, Template

QUESTIONS = {"gsm8k": write_gsm8k, "csqa": write_csqa}


@dataclass
class Animal:
    """A checkpoint and what is made with it, each once and when it is first asked for."""

    entry: Entry
    folder: Path
    questions: dict[str, str] | None = None  # files of questions by task; None: those of corpus.py

    @property
    def template(self) -> Template:
        return TEMPLATES[self.entry.template]

    @cached_property
    def words(self) -> str:
        """A checkpoint without weights."""
        build_tokenizer(self.entry, self.folder / "words")
        return str(self.folder / "words")

    @cached_property
    def base(self) -> str:
        return str(build(self.entry, self.folder / "model"))

    @cached_property
    def run(self) -> Path | MaltError:
        """The folder of a tiny run, or why there is none."""
        try:
            return tiny_run(self.entry, Path(self.base), self.folder / "run")
        except MaltError as error:
            return error

    def finished(self) -> Path:
        if isinstance(self.run, MaltError):
            raise self.run
        return self.run

    def prompts(self, task_name: str) -> tuple[Task, Prompts]:
        """A built-in task on a few questions, and its prompts, as a run would make them."""
        write = QUESTIONS[task_name]
        path = (self.questions or {}).get(task_name) or write(self.folder / task_name)
        argv = ["--task.name", task_name, "--task.path", path, "--model.name_or_path", self.words]
        if not self.template.jinja:
            argv += ["--task.prompts", _plain_wording(task_name, self.folder)]
        config = read_command(train.PROGRAM, [*argv, "--task.test_limit", "1"])
        task = load_task(config)
        return task, load_prompts(config, task)


def _plain_wording(task_name: str, folder: Path) -> str:
    """A file of the task's own prompts, which do not go through a template."""
    own = yaml.safe_load((PACKAGE / "tasks" / f"{task_name}.yaml").read_text())
    path = folder / f"{task_name}.yaml"
    path.write_text(yaml.safe_dump({"chat": False, "prompts": own["prompts"]}))
    return str(path)
