"""`train.warm_start`: SFT on demonstrations before anything is sampled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malt_fast import evaluate
from malt_fast.config.load import saved_config
from malt_fast.config.schema import Config
from malt_fast.evaluation.result import read_result
from malt_fast.forest.file import read_forest
from malt_fast.sampling.prepare import prepare
from malt_fast.store.store import open_store
from malt_fast.utils.errors import MaltError
from tests.small_run import run

Rows = list[dict[str, Any]]
ROWS: Rows = [
    {"question": f"what is {n}?", "generator": f"It is {n}.", "verifier": "Yes.", "id": str(n)}
    for n in range(6)
]


def written(folder: Path, rows: Rows) -> Path:
    path = folder / "demonstrations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loss_of(folder: Path, stage: str) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["stage"] == stage and "loss" in line]


def test_the_method_begins_with_the_taught_roles(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "run", written(tmp_path, ROWS)
    options = ["--train.warm_start", str(file), "--train.sft.logging_steps", "1"]
    assert run(data, model, folder, *options) == 0
    taught = {path.name for path in (folder / "warm").iterdir()} - {"data"}
    assert taught == {"generator", "verifier"}  # no row shows a refinement
    first, last = loss_of(folder, "warm sft/generator")
    assert last < first
    config = json.loads((folder / "warm/generator/sft/adapter_config.json").read_text())
    assert config["r"] == 4
    store = open_store(folder / "samples", writable=False)
    forest = read_forest(folder / "round-0/forest.arrows", store)
    assert forest is not None and not read_plain(data, model, tmp_path, forest.fingerprint)

    before = read_result(folder / "evaluation.json")
    capsys.readouterr()
    assert run(data, model, folder, *options) == 0
    assert "warm sft generator: warm/generator/sft is there already" in capsys.readouterr().out
    (folder / "evaluation.json").unlink()
    assert evaluate.main(["--run", str(folder)]) == 0
    again = read_result(folder / "evaluation.json")
    assert again.made_from == before.made_from  # SA is the taught generator there, too


def read_plain(data: Path, model: Path, tmp_path: Path, fingerprint: str) -> bool:
    """Whether a run without demonstrations samples the same forest."""
    folder = tmp_path / "plain"
    assert run(data, model, folder) == 0
    found = read_forest(
        folder / "round-0/forest.arrows", open_store(folder / "samples", writable=False)
    )
    return found is not None and found.fingerprint == fingerprint


def test_a_role_learns_its_output_after_the_prompt_of_a_run(
    data: Path, model: Path, finished_run: Path, tmp_path: Path
) -> None:
    values = {"run": str(finished_run), "train": {"warm_start": str(written(tmp_path, ROWS))}}
    setup = prepare(saved_config(Config, values, ("train.",)))
    taught = setup.demonstrations["verifier"]
    prompts = setup.prompts
    draft = prompts.tokenizer("It is 3.", add_special_tokens=False)["input_ids"]
    built = prompts.build(2, prompts.encode_question("what is 3?"), [np.array(draft, np.int32)])
    assert taught.prompts[3].tolist() == built.tolist()
    said = prompts.tokenizer("Yes.", add_special_tokens=False)["input_ids"]
    assert taught.completions[3].tolist() == [*said, prompts.tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([], "holds no demonstrations"),
        (
            [{"question": "a", "genrator": "b"}],
            "names the role 'genrator': did you mean 'generator'?",
        ),
        ([{"question": "a", "generator": " "}], "has an empty or non-text generator"),
        ([{"question": "", "generator": "b"}], "has an empty or non-text question"),
        ([{"question": "a", "generator": ["b"]}], "has an empty or non-text generator"),
        ([{"question": "a"}], "needs a question and the output of a role"),
        ([{"generator": "b"}], "needs a question and the output of a role"),
        ([{"question": "a", "refiner": "b"}], "teaches no role"),
        (
            [{"question": "a", "generator": "b"}, {"question": "a", "generator": "b" * 2000}],
            "demonstrations.jsonl:2 makes a prompt and an output of",
        ),
    ],
)
def test_bad_files(
    data: Path, model: Path, tmp_path: Path, capsys: Any, rows: Rows, part: str
) -> None:
    folder = tmp_path / "run"
    assert run(data, model, folder, "--train.warm_start", str(written(tmp_path, rows))) == 2
    told = capsys.readouterr().err
    assert part in told and told.count("\n") == 1
    assert not folder.exists()


def test_a_demonstration_of_a_held_out_question_is_left_out(
    finished_run: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"run": str(finished_run)}
    held_out = prepare(saved_config(Config, values, ())).task.test[0].text
    rows = [*ROWS, {"question": held_out, "generator": "1"}]
    values["train"] = {"warm_start": str(written(tmp_path, rows))}
    setup = prepare(saved_config(Config, values, ("train.",)))
    assert len(setup.demonstrations["generator"]) == len(ROWS)
    with pytest.raises(MaltError, match="does not exist"):
        values["train"] = {"warm_start": str(tmp_path / "none.jsonl")}
        prepare(saved_config(Config, values, ("train.",)))
