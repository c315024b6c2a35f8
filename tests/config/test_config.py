"""Config: where values come from, and every mistake as one sentence."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from malt_fast.config.arguments import parse_arguments
from malt_fast.config.command import read_command
from malt_fast.config.habits import HABITS, INSTEAD
from malt_fast.config.load import (
    differences,
    dump,
    make_config,
    saved_config,
)
from malt_fast.config.mistakes import check_known, settings
from malt_fast.config.schema import Config, resolve_model
from malt_fast.config.values import nested
from malt_fast.config.yaml_files import read_yaml, yaml_text
from malt_fast.report import PROGRAM as REPORT
from malt_fast.runs.directory import changes, resume_command
from malt_fast.runs.saved import published_adapters
from malt_fast.sweep import PROGRAM as SWEEP
from malt_fast.tasks.load import load_task
from malt_fast.train import PROGRAM
from malt_fast.utils.errors import MaltError, nearest


def load(line: str = "") -> Config:
    return read_command(PROGRAM, line.split())


def mistake(line: str) -> str:
    with pytest.raises(MaltError) as caught:
        load_task(load(line), questions=False)
    text = str(caught.value)
    assert "\n" not in text and text[-1] != "."
    return text


def test_defaults_are_the_tasks_over_the_fields() -> None:
    config = load()
    assert config.chain == ["generator", "verifier", "refiner"]
    assert config.tree.branching == [3, 3, 3]
    assert config.task.name == "arithmetic" and config.task.limit == 1000
    assert config.model.name_or_path == "bundled"
    assert config.dpo_roles == ["verifier", "refiner"]
    assert config.train.sft.for_role("generator").num_train_epochs == 3
    short = load("--chain verifier,refiner --tree.branching 3,3 --task.prompts x")
    assert set(short.train.sft.roles) == set() and set(short.train.dpo.roles) == {"verifier"}
    assert load("--task.grader my.module:grade").task.grader == "my.module:grade"
    assert load("--task.name gsm8k --task.path x").model.name_or_path.endswith("8B-Instruct")


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("task: {limit: 7}\nsampling: {temperature: 0.9, top_p: 0.5}\nseed: 4\n")
    config = load(f"--sampling.temperature 0.1 --config {file}")
    assert config.sampling.temperature == 0.1  # command line over file, wherever the file stands
    assert config.sampling.top_p == 0.5  # file over fields
    assert config.task.limit == 7  # file over the task's defaults
    assert config.task.test_limit == 1000  # the task's defaults over fields
    assert config.seed == 4


def test_a_file_chooses_the_task_whose_defaults_apply(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("task: {name: gsm8k, path: train.jsonl}\n")
    config = load(f"--config={file}")
    assert config.model.name_or_path == "meta-llama/Llama-3.1-8B-Instruct"
    assert config.task.limit is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[2,3]", [2, 3]),
        ("null", None),
        ("1e-5", "1e-5"),  # the setting's type makes a number of it
        ("true", "true"),
        ("2024-01-01", "2024-01-01"),
        ("none", "none"),
        ("a: [b", "a: [b"),  # what is no YAML stays as typed
        ("a #b", "a #b"),
        ("a=b", "a=b"),
    ],
)
def test_command_line_values(text: str, value: Any) -> None:
    assert parse_arguments(PROGRAM, ["--x.y", text])[0] == {"x": {"y": value}}
    assert parse_arguments(PROGRAM, [f"--x.y={text}"])[0] == {"x": {"y": value}}


@pytest.mark.parametrize("name", ["1", "1.10", "1e3", "007", "-1", "true", "2024-01-01"])
def test_names_may_look_like_numbers(name: str, tmp_path: Path) -> None:
    config = load(
        f"--run {name} --task.prompts {name} --task.id_column {name} --report_to {name} "
        f"--model.roles.refiner {name}"
    )
    assert config.run == config.task.prompts == Path(name)
    assert config.task.id_column == config.base_model("refiner") == name
    assert config.report_to == [name]
    (tmp_path / "c.yaml").write_text(dump(config))
    assert differences(load(f"--config {tmp_path / 'c.yaml'}"), config) == []


def test_typed_numbers_are_numbers() -> None:
    config = load("--seed 7 --lora.lora_alpha 1e1 --preferences.dedup true --task.limit 5")
    assert (config.seed, config.lora.lora_alpha) == (7, 10.0)
    assert (config.preferences.dedup, config.task.limit) == (True, 5)


def test_yaml_reads_back_as_it_was_written(tmp_path: Path) -> None:
    values = {"a": ["1", 1, "1e3", 1e3, 1e-7, "true", True, "null", None, "", "on", "1_0", "ä: #"]}
    (tmp_path / "v.yaml").write_text(yaml_text(values), encoding="utf-8")
    assert repr(read_yaml(tmp_path / "v.yaml")) == repr(values)


def test_lists_need_no_brackets() -> None:
    config = load(
        "--chain solver,judge --tree.branching 2,4 --train.dpo_roles judge "
        "--task.prompts p.yaml --report_to none"
    )
    assert config.chain == ["solver", "judge"]
    assert config.tree.branching == [2, 4]
    assert config.dpo_roles == ["judge"]
    assert config.report_to == ["none"]


def test_role_overrides() -> None:
    config = load(
        "--sampling.temperature 0.5 --sampling.roles.generator.temperature 0.7 "
        "--evaluate.sampling.temperature 0.2 --evaluate.sampling.roles.verifier.top_k 5 "
        "--train.dpo.roles.verifier.beta 0.1 --train.dpo.beta 0.3 --train.dpo.rpo_alpha 1 "
        "--train.dpo.roles.verifier.rpo_alpha null --model.roles.refiner other"
    )
    assert config.sampling_for("generator").temperature == 0.7
    assert config.sampling_for("refiner").temperature == 0.5
    assert config.sampling_for("generator", evaluating=True).temperature == 0.2
    assert config.sampling_for("verifier", evaluating=True).top_k == 5
    assert config.train.dpo.for_role("verifier").beta == 0.1
    assert config.train.dpo.for_role("verifier").rpo_alpha is None
    assert config.train.dpo.for_role("refiner").beta == 0.3
    assert config.train.dpo.for_role("refiner").rpo_alpha == 1
    assert config.base_model("refiner") == "other"


def test_dump_reads_back(tmp_path: Path) -> None:
    config = load(
        "--run here --seed 3 --sampling.roles.generator.top_p 0.7 "
        "--train.dpo.roles.verifier.beta 1 --train.sft.learning_rate 1e-7 "
        "--evaluate.sampling.temperature 0"
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump(config))
    again = load(f"--config {file}")
    assert differences(config, again) == []
    assert again.run is None and again.train.sft.learning_rate == 1e-7
    assert "run" not in yaml.safe_load(dump(config))


def test_differences_name_dotted_keys() -> None:
    a = load("--run a --seed 0")
    b = load("--run b --seed 1 --tree.branching 3,3,4 --sampling.roles.verifier.top_k 3")
    assert differences(a, b) == ["seed", "tree.branching", "sampling.roles.verifier.top_k"]


def test_settings_do_not_change_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--sampling.temprature 1", ["'sampling.temprature'", "'sampling.temperature'"]),
        ("--temperature 1", ["'sampling.temperature' or 'evaluate.sampling.temperature'?"]),
        ("--smapling.top_p 1", ["'smapling'", "did you mean 'sampling'?"]),
        ("--sampling.roles.generator.topp 1", ["did you mean 'top_p'?"]),
        ("--sampling.roles.genrator.top_p 1", ["'genrator'", "did you mean 'generator'?"]),
        ("--model.roles.judge x", ["model.roles", "'judge'", "generator, verifier, refiner"]),
        ("--train.dpo_roles verifer", ["train.dpo_roles", "did you mean 'verifier'?"]),
        ("--sampling.temperature -1", ["sampling.temperature = '-1'", "at least 0"]),
        (
            "--sampling.roles.verifier.temperature 99",
            ["roles.verifier.temperature = '99'", "at most 10"],
        ),
        ("--tree.threshold 1.5", ["tree.threshold = '1.5'", "at most 1"]),
        ("--sampling.top_p 0", ["sampling.top_p = '0'", "above 0"]),
        ("--train.sft.learning_rate nan", ["train.sft.learning_rate", "finite number"]),
        ("--tree.branching 3,0,3", ["tree.branching.1", "at least 1"]),
        ("--tree.branching 3,3", ["[3, 3]", "chain of 3", "--tree.branching 3,3,3"]),
        ("--lora.r 1.5", ["lora.r = '1.5'", "a whole number"]),
        ("--seed x", ["seed = 'x'", "a whole number"]),
        ("--preferences.dedup maybe", ["preferences.dedup", "true or false"]),
        ("--train.dpo.loss_type x", ["train.dpo.loss_type", "ipo, hinge, kto or sigmoid+kto"]),
        ("--train.dpo.loss_type kto --train.dpo.label_smoothing 0.1", ["label_smoothing", "kto"]),
        ("--train.dpo.desirable_weight 2", ["desirable_weight", "sigmoid", "to kto"]),
        (
            "--train.dpo.roles.verifier.undesirable_weight 2",
            ["undesirable_weight", "sigmoid", "to kto"],
        ),
        (
            "--train.dpo.loss_type kto --train.dpo.desirable_weight 0 "
            "--train.dpo.undesirable_weight 0",
            ["both 0", "raise one"],
        ),
        (
            "--train.dpo.loss_type sigmoid+kto --train.dpo.per_device_train_batch_size 1",
            ["sigmoid+kto", "per_device_train_batch_size to 2"],
        ),
        ("--train.dpo.loss_type ipo --train.dpo.label_smoothing 0.1", ["label_smoothing", "ipo"]),
        (
            "--train.dpo.label_smoothing 0.1 --train.dpo.roles.verifier.loss_type ipo",
            ["label_smoothing", "ipo"],
        ),
        ("--task.name gsmk", ["task.name", "arithmetic, gsm8k, math, csqa or jsonl"]),
        ("--task 3", ["task is a section", "--task.name 3"]),
        ("--tree 3", ["tree is a section", "--tree.FIELD 3"]),
        ("--lr 3", ["here it is `--train.sft.learning_rate`"]),
        ("--output_dir x", ["here it is `--run`"]),
        ("--output-dir x", ["here it is `--run`"]),
        ("--config_file x", ["here it is `--config`"]),
        ("--gpu_memory_utilization 0.9", ["`--engine.vllm.gpu_memory_utilization`"]),
        ("--beta 1", ["did you mean 'train.dpo.beta'?"]),
        ("--votes 1", ["did you mean 'evaluate.votes'?"]),
        ("--dataset_train_split train", ["here it is `--task.split`"]),
        ("--run_name x", ["here it is `--run`"]),
        ("--max_model_len 9", ["here it is `--engine.vllm.max_model_len`"]),
        ("--model.revision main", ["'model.revision'", "--revision REV --local-dir DIR"]),
        ("--train.sft.eval_steps 5", ["'train.sft.eval_steps'", "no validation loss"]),
        ("--train.sft.roles.verifier.optim x", ["AdamW is the only"]),
        ("--train.sft.gradient_checkpointing true", ["auto, none, selective or full"]),
        ("--learning_rate 3", ["'train.sft.learning_rate' or 'train.dpo.learning_rate'"]),
        ("model=a", ["is not an option", "write `--model.name_or_path a`"]),
        ("tree.branching=3,3,3", ["write `--tree.branching 3,3,3`"]),
        ("--set tree.branching=3", ["write `--tree.branching 3`"]),
        ("--set=tree.branching=3", ["write `--tree.branching 3`"]),
        ("--set", ["'--set' is not an option"]),
        ("nowhere", ["'nowhere' is not an option", "`--section.field value`"]),
        ("a=b=c", ["write `--a b=c`"]),
        ("a-b=c", ["`--section.field value`"]),
        ("help", ["write `--help`"]),
        ("-c nowhere.yaml", ["nowhere.yaml does not exist in /"]),
        ("--run.x 3", ["run", "a path"]),
        ("--chain a,b,a", ["names a role twice"]),
        ("--chain a,b-c,d", ["'b-c'", "letters"]),
        ("--chain []", ["chain = []", "at least one"]),
        ("--engine.name replay", ["--engine.path"]),
        ("--task.name gsm8k", ["--task.path FILE.jsonl, or OWNER/NAME of the hub"]),
        ("--task.name jsonl --task.path x", ["--task.grader"]),
        ("--task.path x", ["arithmetic", "--task.name"]),
        ("--task.subset_seed 1", ["arithmetic", "task.subset_seed"]),
        ("--task.min_score 1.5", ["task.min_score", "at most 1"]),
        ("--task.grading srtict", ["task.grading = 'srtict'", "lenient or strict"]),
        (
            "--task.grader nubmer",
            ["'nubmer' is no grader", "did you mean 'number'?", "package.mod"],
        ),
        ("--task.grader zzz", ["number, math, choice, exact"]),
        ("--task.grader my-module:grade", ["'my-module:grade' does not name a function"]),
        ("--task.grader :f", ["does not name a function", "package.module:function"]),
        ("--task.grader a..b:f", ["does not name a function"]),
        ("--task.grader a:b:c", ["does not name a function"]),
        ("--task.name csqa --task.path x --task.answer_column y", ["task.answer_column", "csqa"]),
        ("--task.name math --task.path x --task.question_column y", ["task.question_column"]),
        ("train", ["'train' is not an option"]),
        ("--seed", ["--seed needs a value"]),
        ("--seed --run x", ["--seed needs a value"]),
        ("--config /no/where.yaml", ["/no/where.yaml does not exist: check"]),
    ],
)
def test_mistakes(line: str, parts: list[str]) -> None:
    text = mistake(line)
    for part in parts:
        assert part in text


def test_names_of_other_programs() -> None:
    """What to write instead is said, and can be written."""
    for name, known in HABITS.items():
        if known not in ("config", "push_to_hub"):  # of this program, of another
            assert f"`--{known}`" in mistake(f"--{name} 1") or known.startswith(f"{name}."), name
    for name, text in INSTEAD.items():
        assert f"'{name}' is not a setting: {text}" in mistake(f"--{name} 1")
        commands = re.findall("`(--.*?)`", text)
        for command in commands:
            read_command(PROGRAM, shlex.split(command))
        for advised in re.findall(r"--([a-z]+\.[\w.]+)", text):
            check_known(Config, advised)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\ntree:\n  branchin: 3\n", ":3: 'tree.branchin' is not a setting"),
        ("tree:\n  branching:\n  - 3\n  - x\n", ":4: tree.branching.1 = 'x' is not possible"),
        ("\n\nmodel: x\n", ":3: model is a section"),
        ("model: {name_or_path: a,\n  dtype: b}\n", ":2: model.dtype = 'b' is not possible"),
        ("seed: 1\nfoo:\n  a: {b: 3}\n", ":2: 'foo' is not a setting"),
        ("model:\n  roles: {generator: [3]}\n", ":2: model.roles.generator = [3]"),
    ],
)
@pytest.mark.parametrize("program", ["train", "sweep"])
def test_a_mistake_in_a_file_names_the_line(tmp_path: Path, text, said, program) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(text)
    with pytest.raises(MaltError) as caught:
        read_command({"train": PROGRAM, "sweep": SWEEP}[program], ["-c", str(file)])
    assert str(caught.value).startswith(f"{file}{said}")


def test_hyphens_are_read_as_underscores() -> None:
    config = load("--sampling.max-tokens=7 --task.test-path a-b")
    assert (config.sampling.max_tokens, config.task.test_path) == (7, "a-b")


def test_other_runs_are_separated_by_commas() -> None:
    assert load("--reuse a,b").reuse == [Path("a"), Path("b")]


def test_runs_to_compare_may_have_commas(tmp_path: Path) -> None:
    def runs(*words: str) -> list[Path]:
        return read_command(REPORT, words).run

    assert runs("--run", "a=1,2", "--run", "b") == [Path("a=1,2"), Path("b")]
    assert runs(str(tmp_path), "/", "--out", "x") == [tmp_path, Path("/")]


def test_a_directory_at_the_front_is_the_run(tmp_path: Path) -> None:
    with pytest.raises(MaltError, match="nowhere holds no run"):
        read_command(SWEEP, ["nowhere", "--sweep", "tree.threshold=0.3"])
    assert read_command(REPORT, ["nowhere"]).run == [Path("nowhere")]
    assert read_command(PROGRAM, [str(tmp_path), "--seed", "3"]).run == tmp_path
    assert "is not an option" in mistake(f"--seed 3 {tmp_path}")


def test_secrets_are_no_settings_since_those_are_written_down() -> None:
    server = "--engine.name openai --engine.base_url http://"
    for line, instead in (
        (f"{server}me:s3cret@host/v1", "OPENAI_API_KEY"),
        ("--engine.vllm.hf_token s3cret", "HF_TOKEN"),
    ):
        text = mistake(line)
        assert f"set {instead} instead" in text and "s3cret" not in text
    assert load(f"{server}host/v1@2").engine.base_url == "http://host/v1@2"


def test_a_value_that_is_no_yaml_is_text() -> None:
    assert load("--engine.vllm.x [").engine.vllm == {"x": "["}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"a: [1,\nb: 2\n", "bad.yaml:"),
        (b"- a\n- b\n", "no mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"seeed: 3\n", "did you mean 'seed'?"),
        (b"task: 3\n", "task is a section"),
        (b"seed: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    assert part in mistake(f"--config {file}")


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n")
    assert differences(load(f"--config {file}"), load()) == []


def test_help_lists_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        load("--help all")
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "--sampling.temperature float" in text
    flowing = " ".join(text.split())
    assert "(at least 0, at most 10; default 1.0 for the task arithmetic)" in flowing
    assert "--train.dpo.beta float" in text and "--tree.pooling global|local" in text

    def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
        out = []
        for key, value in values.items():
            deeper = isinstance(value, dict) and key != "roles"
            out += leaves(value, f"{prefix}{key}.") if deeper else [prefix + key]
        return out

    for name in leaves(load().model_dump()):
        assert re.search(rf"^  --{re.escape(name)}\s", text, re.MULTILINE), name
    assert all(len(info.description or "") > 3 for _, info, _ in settings(Config))


def test_resolve_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve_model("a/b") == "a/b"
    monkeypatch.setattr("malt_fast.config.schema.PACKAGE", tmp_path)
    with pytest.raises(MaltError, match="reinstall"):
        resolve_model("bundled")
    (tmp_path / "demo" / "model").mkdir(parents=True)
    (tmp_path / "demo" / "model" / "config.json").write_text("{}")
    assert Path(resolve_model("bundled")) == tmp_path / "demo" / "model"


def test_make_config_takes_nested_values() -> None:
    config = make_config({"chain": ["a"], "tree": {"branching": [2]}})
    assert config.chain == ["a"]
    assert config.dpo_roles == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("task.path", Path("x"), "x"),
        ("run", Path("r"), Path("r")),
        ("reuse", [Path("a")], [Path("a")]),
        ("tree.branching", (2, 2, 2), [2, 2, 2]),
        ("tree.branching", "2,2,2", [2, 2, 2]),
        ("lora.r", np.int64(4), 4),
        ("task.limit", None, None),
    ],
)
def test_values_from_python(key: str, value: Any, expected: Any) -> None:
    found: Any = make_config(nested([(key, value)]))
    for part in key.split("."):
        found = getattr(found, part)
    assert found == expected


def test_a_later_value_wins() -> None:
    assert nested([("a.b", 1), ("a", {"c": 2}), ("a.d", 3)]) == {"a": {"c": 2, "d": 3}}
    assert nested([("a", 1), ("a.b", 2)]) == {"a": {"b": 2}}


def test_nearest() -> None:
    assert nearest("refnier", ["verifier", "refiner"]) == "did you mean 'refiner'?"
    assert nearest("zzz", ["a", "b"]) == "known are a, b"
    assert nearest("zzz", []) == "none is known"
    assert nearest("zzz", ["a"]) == "did you mean 'a'?"


def test_a_mistake_in_the_settings_of_a_run_names_their_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"seed: 0\nfoo: 3\n{dump(load()).replace('seed: 0', '')}")
    with pytest.raises(MaltError, match=r"config\.yaml:2: 'foo' is not a setting"):
        saved_config(Config, {"run": tmp_path}, ())
    with pytest.raises(MaltError, match=r"config\.yaml:2: 'foo' is not a setting"):
        changes(tmp_path / "config.yaml", load())


def test_a_yaml_comment_is_text_on_the_command_line() -> None:
    assert load("--task.path #7").task.path == "#7"


def test_the_command_that_goes_on_with_a_run_can_be_typed(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(load("--seed 7 --tree.branching 2,2,2")))
    words = shlex.split(resume_command(folder))
    assert words[:3] == ["python", "-m", "malt_fast.train"]
    config = read_command(PROGRAM, words[3:])
    assert config.run == folder and changes(folder / "config.yaml", config) == []
    with pytest.raises(MaltError, match="holds no adapters"):
        published_adapters(folder)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"a": 3}', '{"a": {}}', '{"a": {"sft": 3, "final": 4, "stage": "dpo"}}'),
        '{"a": {"sft": null, "final": "x", "stage": "other"}}',
    ],
)
def test_a_damaged_index_of_adapters(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "index.json").write_text(text)
    with pytest.raises(MaltError, match=r"index\.json is damaged: make it again by `python -m"):
        published_adapters(tmp_path)
