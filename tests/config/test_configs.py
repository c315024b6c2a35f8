"""configs/: every task with every model and machine, loaded, and what it plans."""

from itertools import product
from pathlib import Path

import pytest

from malt_fast.config.command import read_command
from malt_fast.config.schema import Config
from malt_fast.engines import Policy
from malt_fast.sampling.expand import shape_from_branching
from malt_fast.tasks.load import load_task
from malt_fast.tasks.task import Task
from malt_fast.train import PROGRAM
from tests.questions import choices, problem, serve

FOLDER = Path(__file__).resolve().parents[2] / "configs"
TASKS = {"gsm8k": "openai/gsm8k", "math": "EleutherAI/hendrycks_math", "csqa": "tau/commonsense_qa"}
MODELS = {
    "llama-3.1-8b": ("meta-llama/Llama-3.1-8B-Instruct", ["verifier", "refiner"]),
    "qwen2.5-1.5b": ("Qwen/Qwen2.5-1.5B", ["generator", "verifier", "refiner"]),
}
MACHINES = {"1-gpu": 1, "8-gpus": 8}


def load(*names: str, options: tuple[str, ...] = ()) -> Config:
    files = [word for name in names for word in ("--config", str(FOLDER / f"{name}.yaml"))]
    return read_command(PROGRAM, [*files, *options])


def rows(task: str, split: str) -> list[dict[str, object]]:
    """Five questions as the hub has them."""
    texts = [f"{split} question {i}, so what?" for i in range(5)]
    if task == "gsm8k":
        return [{"question": text, "answer": "It is so.\n#### 7"} for text in texts]
    if task == "math":
        return [problem(text, r"It is $\boxed{\frac{7}{2}}$.") for text in texts]
    return [choices(text, "B", f"{split}-{i}", "yes", "no") for i, text in enumerate(texts)]


def test_every_file_is_tested_and_described() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*TASKS, *MODELS, *MACHINES}
    page = (FOLDER.parent / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in page for path in FOLDER.iterdir())


@pytest.mark.parametrize("names", list(product(TASKS, MODELS, MACHINES)), ids="+".join)
def test_what_a_combination_plans(
    names: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(*names)
    name, model, machine = names
    assert (config.task.name, config.task.path) == (name, TASKS[name])
    assert (config.base_model(), config.dpo_roles) == MODELS[model]
    assert config.model.dtype == "bfloat16" and config.engine.replicas == MACHINES[machine]
    for stage in (config.train.sft, config.train.dpo):
        for role in config.chain:
            settings = stage.for_role(role)
            assert settings.per_device_train_batch_size * settings.gradient_accumulation_steps == 8
            assert settings.bf16 and settings.gradient_checkpointing == "auto"
    assert config.train.sft.learning_rate == 1e-4 and config.train.dpo.learning_rate == 5e-6
    assert config.train.dpo.beta == 0.2 and config.sampling_for("refiner").temperature == 0.3
    assert (config.lora.r, config.lora.lora_alpha) == (32, 32)
    assert plan(config, task_of(config, monkeypatch)) == 5 * 39


def task_of(config: Config, monkeypatch: pytest.MonkeyPatch) -> Task:
    name = config.task.name
    held_out = "validation" if name == "csqa" else "test"
    part = {"gsm8k": "main", "math": "algebra", "csqa": "default"}[name]
    splits = {split: rows(name, split) for split in ("train", held_out)}
    serve(monkeypatch, TASKS[name], {part: splits})
    task = load_task(config)
    assert len(task.test) == 5 and task.report == {} and task.chat
    return task


def plan(config: Config, task: Task) -> int:
    """Outputs that the forest of a run will have."""
    base = [Policy(config.base_model(role)) for role in config.chain]
    return len(task.train) * len(shape_from_branching(config.tree.branching, base))


def test_files_and_the_command_line_go_over_each_other() -> None:
    order = load("8-gpus", "llama-3.1-8b", "math", "1-gpu", options=("--lora.r", "8"))
    assert order.engine.replicas == 1 and order.lora.r == 8
    assert not order.train.side_by_side
    assert order.sampling.max_tokens == 2048


@pytest.mark.parametrize(
    ("name", "file", "questions"),
    [("gsm8k", "gsm8k/train.jsonl", 7473), ("csqa", "csqa/train_rand_split.jsonl", 9740)],
)
def test_real_data(shared_data: Path, name: str, file: str, questions: int) -> None:
    config = load(
        *(name, "llama-3.1-8b", "1-gpu"), options=("--task.path", str(shared_data / file))
    )
    assert plan(config, load_task(config)) == 39 * questions


def test_a_trial_of_real_data(shared_data: Path) -> None:
    options = ("--task.limit", "200", "--task.test_limit", "100", "--task.subset_seed", "0")
    path = ("--task.path", str(shared_data / "gsm8k" / "train.jsonl"))
    config = load("gsm8k", "qwen2.5-1.5b", "1-gpu", options=(*options, *path))
    task = load_task(config)
    assert (plan(config, task), len(task.test)) == (200 * 39, 100)
    assert [q.id for q in task.train[:3]] != ["train-0", "train-1", "train-2"]
