"""An exported run in TRL, PEFT and as merged checkpoints; exports of runs with missing parts."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import peft
import pyarrow.parquet
import pytest
import torch
import yaml
from markupsafe import Markup
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from malt_fast import __main__, export
from malt_fast.config.load import make_config
from malt_fast.config.schema import LoraConfig
from malt_fast.config.yaml_files import read_yaml
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.preferences import select_pairs
from malt_fast.models.loading import load_causal
from malt_fast.results import export_folders
from malt_fast.results.cards import Facts, model_card
from malt_fast.results.export_folders import merge
from malt_fast.results.export_rows import as_texts
from malt_fast.results.opened_run import Adapter
from malt_fast.results.templates import fenced
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.wording import RolePrompt
from malt_fast.training.adapters import load_model
from malt_fast.training.packing import Packer, Packing, completion_logps
from malt_fast.utils.files import read_checked
from malt_fast.utils.seals import seal
from tests.adapters import make_adapter
from tests.families import write_family
from tests.small_run import load_forest, run, write_questions
from tests.tiny import byte_tokenizer, tiny_llama

datasets = pytest.importorskip("datasets")
CHAIN = ["generator", "verifier", "refiner"]
WORDING = {
    "generator": "{question} G:",
    "verifier": "{question} G:{generator} V:",
    "refiner": "{question} G:{generator} V:{verifier} R:",
}
OPTIONS = (
    *("--train.sft.learning_rate", "0.1", "--train.sft.max_steps", "6"),
    *("--train.dpo.learning_rate", "0.1", "--train.dpo.max_steps", "6"),
    *("--sampling.max_tokens", "3", "--tree.branching", "4,3,3", "--tree.threshold", "0.15"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A finished run whose outputs are mostly `1</s>` or `2</s>`, some cut off, and its export."""
    folder = tmp_path_factory.mktemp("export")
    likes = {"1": 12.0, "2": 12.0, "</s>": 13.0}
    model = tiny_llama(folder / "model", chat_template=True, likes=likes)
    data = write_questions(folder / "questions.jsonl")
    prompts = folder / "prompts.yaml"
    prompts.write_text(yaml.safe_dump({"chat": False, "prompts": WORDING}))
    assert run(data, model, folder / "run", *OPTIONS, "--task.prompts", str(prompts)) == 0
    assert export.main(["--run", str(folder / "run"), "--merged"]) == 0
    return folder


@pytest.fixture
def copy(home, tmp_path) -> Path:
    """The run without its export, to be damaged."""
    shutil.copytree(home / "run", tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    return tmp_path / "run"


def rows(home: Path, role: str, kind: str):
    folder = home / "run" / "export" / "data" / role
    return datasets.load_dataset(str(folder), kind, cache_dir=str(home / "cache"))["train"]


def run_export(capsys, *argv: str) -> tuple[int, str, str]:
    status = export.main(argv)
    out = capsys.readouterr()
    assert "Traceback" not in out.err and out.err.count("\n") <= 1
    return status, out.out, out.err


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- rows ----


def test_pairs_are_those_that_were_trained_on_with_their_values(home):
    config = make_config(read_yaml(home / "run" / "config.yaml"))
    forest = load_forest(home / "run")
    credit = assign_credit(config.tree, forest)
    for level, role in enumerate(CHAIN, 1):
        chosen, rejected = select_pairs(forest, credit, level, config.preferences, config.seed)
        table = rows(home, role, "dpo")
        assert table["chosen_node"] == chosen.tolist()
        assert table["rejected_node"] == rejected.tolist()
        assert table["chosen_value"] == credit.value[chosen].tolist()
        assert table["rejected_value"] == credit.value[rejected].tolist()
        assert [forest.tokens_of(n).tolist() for n in chosen] == list(table["chosen_ids"])
        assert [forest.tokens_of(n).tolist() for n in rejected] == list(table["rejected_ids"])
        lines = (home / "run" / "questions.jsonl").read_text().splitlines()
        questions = [json.loads(line) for line in lines]
        size = len(forest) // len(questions)
        asked = [questions[n // size] for n in forest.roots()[chosen].tolist()]
        assert table["question"] == [question["id"] for question in asked]
        for prompt, question in zip(table["prompt"], asked, strict=True):
            assert prompt.startswith("<s>" + question["text"])


def test_kto_rows_and_steps_hold_every_label_and_value(home):
    config = make_config(read_yaml(home / "run" / "config.yaml"))
    forest = load_forest(home / "run")
    credit = assign_credit(config.tree, forest)
    for level, role in enumerate(CHAIN, 1):
        nodes = np.flatnonzero((forest.level == level) & (credit.label >= 0)).tolist()
        kto, prm = rows(home, role, "kto"), rows(home, role, "prm")
        assert kto["node"] == nodes and [path[-1] for path in prm["nodes"]] == nodes
        assert kto["label"] == (credit.label[nodes] == 1).tolist()
        for row in prm:
            assert len(row["completions"]) == level
            assert row["values"] == credit.value[row["nodes"]].tolist()
            assert row["labels"] == (credit.label[row["nodes"]] == 1).tolist()
            assert forest.parent[row["nodes"][1:]].tolist() == row["nodes"][:-1]
            assert row["prompt"].startswith("one or two?") and "G:" not in row["prompt"]


def test_every_round_is_there_with_its_own_trees_and_references(home, tmp_path, capsys):
    """Two rounds with one forest per role: the rows equal the training files of each round."""
    more = (
        "--train.rounds",
        "2",
        "--train.regenerate",
        "sequential",
        "--preferences.dedup",
        "true",
    )
    options = (*OPTIONS, *more, "--task.prompts", str(home / "prompts.yaml"))
    folder = tmp_path / "run"
    assert run(home / "questions.jsonl", home / "model", folder, *options) == 0
    capsys.readouterr()
    status, out, _ = run_export(capsys, "--run", str(folder))
    assert status == 0
    lacks = [line for line in out.splitlines() if line.startswith("not exported")]
    expected = "not exported: ref_*_logps of data/generator/dpo.parquet: "
    assert len(lacks) == 2 and all(line.startswith(expected) for line in lacks)
    for role in CHAIN:
        table = pyarrow.parquet.read_table(folder / "export" / "data" / role / "sft.parquet")
        columns = (table[name].to_pylist() for name in ("round", "prompt", "completion"))
        found = list(zip(*columns, strict=True))
        trained = []
        for index in range(2):
            path = folder / f"round-{index}" / "data" / role / "sft.parquet"
            rows = pyarrow.parquet.read_table(path).to_pylist()
            trained += [(index, row["prompt"], row["completion"]) for row in rows]
        assert found == trained and {row[0] for row in found} == {0, 1}
        pairs = pyarrow.parquet.read_table(folder / "export" / "data" / role / "dpo.parquet")
        assert ("ref_chosen_logps" in pairs.column_names) == (role != "generator")


@pytest.mark.parametrize("kind", ["sft", "kto"])
def test_exact_rows_give_back_their_tokens_and_others_do_not(home, kind):
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    seen = set()
    for role in CHAIN:
        for row in rows(home, role, kind):
            text = row["prompt"] + row["completion"] + tokenizer.eos_token
            same = tokenizer(text)["input_ids"] == row["prompt_ids"] + row["completion_ids"]
            assert same == row["exact"]
            seen.add(same)
    assert kind == "sft" or seen == {True, False}


def test_texts_that_do_not_give_back_their_tokens_are_marked():
    """Cut off, half a character, a control token inside, another split, another prompt."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["ab", AddedToken("xy", single_word=True)])
    end = tokenizer.eos_token_id
    prompts = Prompts(["a"], {"a": RolePrompt(None, "{question}:")}, tokenizer, chat=False)
    prompt = np.array([tokenizer.bos_token_id, *tokenizer("x:")["input_ids"]], np.int32)
    other = np.array(tokenizer.convert_tokens_to_ids(["a", "b"]), np.int32)

    def ids(*tokens: int | str) -> np.ndarray:
        known = [t if isinstance(t, int) else tokenizer.convert_tokens_to_ids(t) for t in tokens]
        return np.array(known, np.int32)

    half = tokenizer("é")["input_ids"][0]
    cases = [
        ((prompt, ids("1", end)), True),
        ((prompt, ids("ab", end)), True),
        ((prompt, ids("1")), False),
        ((prompt, ids(half, end)), False),
        ((prompt, ids("1", "<pad>", "2", end)), False),
        ((prompt, ids("a", "b", end)), False),
        ((other, ids("1", end)), False),
        ((prompt, ids(end)), True),
        ((ids("x", "y"), ids("z", end)), False),  # by itself the prompt is one token
    ]
    texts = as_texts(prompts, [rows for rows, _ in cases])
    assert [text.exact for text in texts] == [exact for _, exact in cases]


# ---- TRL ----


def arguments(kind, folder: Path, **more):
    return kind(
        str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        max_steps=1,
        logging_steps=1,
        learning_rate=0.1,
        disable_tqdm=True,
        save_strategy="no",
        **more,
    )


def one_step(trainer) -> dict[str, float]:
    """Train one step, check that the weights moved; returns the first log line."""
    watched = next(p for n, p in trainer.model.named_parameters() if "lora_B.default" in n)
    before = watched.detach().clone()
    trainer.train()
    assert not torch.equal(before, watched)
    return trainer.state.log_history[0]


def adapted(home: Path, adapter: Path):
    base = AutoModelForCausalLM.from_pretrained(home / "model")
    return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)


def test_dpo_trainer_takes_pairs_and_reference_log_probs(home, tmp_path):
    """From the SFT adapter the first loss is ln 2, with our reference log-probs as with TRL's."""
    trl = pytest.importorskip("trl")
    table = rows(home, "verifier", "dpo").filter(lambda row: row["exact"])
    assert len(table) >= 4
    reference = adapted(home, home / "run" / "round-0" / "verifier" / "sft").eval()
    for side in ("chosen", "rejected"):
        sides = [row | {"completion_ids": row[f"{side}_ids"]} for row in table]
        logps = plain_logps(reference, sides)
        assert table[f"ref_{side}_logps"] == pytest.approx(logps, abs=1e-4)
    first = {}
    for ours in (False, True):
        trainer = trl.DPOTrainer(
            adapted(home, home / "run" / "round-0" / "verifier" / "sft"),
            args=arguments(trl.DPOConfig, tmp_path, per_device_train_batch_size=4),
            train_dataset=table,
            processing_class=AutoTokenizer.from_pretrained(home / "model"),
        )
        assert list(trainer.train_dataset["prompt_ids"]) == list(table["prompt_ids"])
        assert list(trainer.train_dataset["chosen_ids"]) == list(table["chosen_ids"])
        trainer.precompute_ref_logps = ours
        first[ours] = one_step(trainer)
        assert first[ours]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert first[True]["logps/chosen"] == pytest.approx(first[False]["logps/chosen"], abs=1e-4)
    assert abs(first[True]["logps/chosen"]) > 0.1


def test_sft_trainer_takes_examples(home, tmp_path):
    trl = pytest.importorskip("trl")
    table = rows(home, "refiner", "sft").filter(lambda row: row["exact"])
    trainer = trl.SFTTrainer(
        adapted(home, home / "run" / "export" / "adapters" / "refiner"),
        args=arguments(trl.SFTConfig, tmp_path),
        train_dataset=table,
        processing_class=AutoTokenizer.from_pretrained(home / "model"),
    )
    for row, mine in zip(trainer.train_dataset, table, strict=True):
        assert row["input_ids"] == mine["prompt_ids"] + mine["completion_ids"]
        learnt = [label for label in row["labels"] if label != -100]
        assert learnt == mine["completion_ids"]
    assert np.isfinite(one_step(trainer)["loss"])


def test_kto_trainer_takes_labelled_outputs(home, tmp_path):
    trl = pytest.importorskip("trl")
    table = rows(home, "generator", "kto").filter(lambda row: row["exact"])
    assert set(table["label"]) == {True, False}
    trainer = trl.KTOTrainer(
        adapted(home, home / "run" / "export" / "adapters" / "generator"),
        args=arguments(trl.KTOConfig, tmp_path, per_device_train_batch_size=4),
        train_dataset=table,
        processing_class=AutoTokenizer.from_pretrained(home / "model"),
    )
    assert list(trainer.train_dataset["completion_ids"]) == list(table["completion_ids"])
    assert np.isfinite(one_step(trainer)["loss"])


# ---- adapters ----


@torch.no_grad()
def plain_logps(model, table) -> list[float]:
    """Log-probs of completions from the logits of transformers, one row at a time."""
    found = []
    for row in table:
        ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
        logits = model(input_ids=ids).logits[0].log_softmax(-1)
        own = range(len(row["prompt_ids"]), ids.shape[1])
        found.append(sum(logits[i - 1, ids[0, i]].item() for i in own))
    return found


@torch.no_grad()
def our_logps(home: Path, adapter: Path, role: str) -> list[float]:
    """The same from the model that roles are trained with, on packs of trees."""
    from malt_fast.forest.role_data import RoleData

    table = rows(home, role, "kto")
    data = RoleData(
        prompts=[np.array(ids, np.int32) for ids in table["prompt_ids"]],
        completions=[np.array(ids, np.int32) for ids in table["completion_ids"]],
        pairs=np.zeros((0, 2), np.int64),
        trees=np.zeros(len(table), np.int64),
        nodes=np.array(table["node"]),
    )
    lora = LoraConfig(r=4)
    base = str(home / "model")
    model = load_model(base, adapter, lora, dtype="float32", seed=0, layout="trees").eval()
    packer = Packer("sft", data, Packing("trees", 4096, 8, "cpu"))
    found = np.full(len(data), np.nan)
    for batch in packer.cut(np.arange(len(data)), np.zeros((0, 2), np.int64))[0]:
        found[batch.completions] = completion_logps(model(batch), batch)
    return found.tolist()


@pytest.mark.parametrize("role", CHAIN)
def test_adapters_and_merged_checkpoints_give_our_log_probs(home, role):
    out = home / "run" / "export"
    mine = our_logps(home, home / "run" / "adapters" / role / "final", role)
    table = rows(home, role, "kto")
    bare = AutoModelForCausalLM.from_pretrained(home / "model").eval()
    without = plain_logps(bare, table)
    adapter = peft.PeftModel.from_pretrained(bare, out / "adapters" / role).eval()
    assert plain_logps(adapter, table) == pytest.approx(mine, abs=1e-4)
    merged = AutoModelForCausalLM.from_pretrained(out / "merged" / role).eval()
    assert plain_logps(merged, table) == pytest.approx(mine, abs=1e-4)
    assert np.abs(np.subtract(without, mine)).max() > 1e-2
    again = AutoTokenizer.from_pretrained(out / "merged" / role)
    assert again.get_vocab() == byte_tokenizer().get_vocab() and again.chat_template


# vLLM's CPU build fails at prompt_logprobs with a LoRA: a request for every token of a completion
VLLM = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

if __name__ == "__main__":
    base, adapter, merged, rows = sys.argv[1:]
    table = json.load(open(rows))
    pairs = [(i, row["completion_ids"][:n], row["completion_ids"][n])
             for i, row in enumerate(table) for n in range(len(row["completion_ids"]))]
    prompts = [{"prompt_token_ids": table[i]["prompt_ids"] + before} for i, before, _ in pairs]
    params = SamplingParams(max_tokens=1, logprobs=-1)  # of every token
    settings = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256, "block_size": 32}
    settings |= {"max_logprobs": -1}
    if adapter:
        llm = LLM(base, enable_lora=True, max_lora_rank=8, **settings)
        outputs = llm.generate(prompts, params, lora_request=LoRARequest("role", 1, adapter))
    else:
        outputs = LLM(merged, **settings).generate(prompts, params)
    found = [0.0] * len(table)
    for (i, _, token), one in zip(pairs, outputs, strict=True):
        found[i] += one.outputs[0].logprobs[0][token].logprob
    json.dump(found, open(rows + ".logps", "w"))
"""


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("what", "role"), [("adapter", "verifier"), ("adapter", "refiner"), ("merged", "refiner")]
)
def test_vllm_gives_our_log_probs(home, tmp_path, what, role):
    """Through its public class, in a process of its own, because a process holds one engine."""
    out, table = home / "run" / "export", rows(home, role, "kto").select(range(30))
    script, file = tmp_path / "score.py", tmp_path / "rows.json"
    script.write_text(VLLM)
    file.write_text(json.dumps([dict(row) for row in table]))
    folders = {"adapter": ["adapters", ""], "merged": ["", "merged"]}[what]
    where = [str(out / folder / role) if folder else "" for folder in folders]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    env |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"}
    words = [sys.executable, str(script), str(home / "model"), *where, str(file)]
    done = subprocess.run(words, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    theirs = json.loads(Path(f"{file}.logps").read_text())
    mine = our_logps(home, home / "run" / "adapters" / role / "final", role)[: len(theirs)]
    assert theirs == pytest.approx(mine, abs=1e-4)
    bare = AutoModelForCausalLM.from_pretrained(home / "model").eval()
    assert np.abs(np.subtract(plain_logps(bare, table), mine)).max() > 1e-2


# ---- what is written ----


def test_a_second_export_writes_the_same_bytes(home, tmp_path):
    out = home / "run" / "export"
    before = every_file(out)
    assert export.main(["--run", str(home / "run"), "--merged"]) == 0
    assert every_file(out) == before
    elsewhere = tmp_path / "other"
    assert export.main(["--run", str(home / "run"), "--merged", "--out", str(elsewhere)]) == 0
    assert every_file(elsewhere) == before
    assert not [path for path in out.rglob(".*")]


def test_adapters_are_the_runs_and_cards_describe_them(home):
    out, run = home / "run" / "export", home / "run"
    result = json.loads((run / "evaluation.json").read_text())
    best = result["systems"][-1]
    shown, low, high = (f"{100 * share:.1f}" for share in (best["accuracy"], *best["ci95"]))
    for role in CHAIN:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            file = out / "adapters" / role / name
            assert file.read_bytes() == (run / "adapters" / role / "final" / name).read_bytes()
        card = (out / "adapters" / role / "README.md").read_text()
        assert str(home / "model") in card and f"| {shown} | {low}..{high} |" in card
        assert ("DPO: 6 updates" in card) == (role != "generator") and "SFT: 6 updates" in card
        assert "--max-loras 3 --max-lora-rank 8" in card and f"{role}=adapters/{role}" in card
        assert WORDING[role] in card and "## Licence" in card
        examples = len(rows(home, role, "sft"))
        assert f"{examples:,} examples of SFT" in card
        front = yaml.safe_load(card.split("---")[1])
        assert front == {
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": ["malt"],
        }
        assert (out / "merged" / role / "README.md").read_text() != card


def test_a_hub_id_becomes_the_cards_base_model():
    config = make_config({"model": {"name_or_path": "org/base-model"}})
    facts = Facts("toy", config, None, Markup(), {"generator": Adapter(Path("nowhere"), "sft")})
    card = model_card(facts, "generator", merged=True)
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "org/base-model"


def test_cards_escape_what_they_show():
    config = make_config({"model": {"name_or_path": "a`b|c"}})
    facts = Facts(
        "*x*_y|<b>", config, None, Markup(), {"generator": Adapter(Path("nowhere"), "sft")}
    )
    card = model_card(facts, "generator", merged=True)
    assert r"# generator of \*x\*\_y\|\<b\>" in card
    assert r"| base model | ``a`b\|c`` |" in card
    assert fenced("```\n") == "````\n```\n\n````"


def change(run: Path, before: str, after: str) -> None:
    """Change a setting as if the run had been trained with it."""
    for file in (run / "config.yaml", run / "adapters" / "config.yaml"):
        file.write_text(file.read_text().replace(before, after))


def test_settings_changed_since_the_training_are_named(home, copy, capsys):
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("threshold: 0.15", "threshold: 0.4"))
    status, out, _ = run_export(capsys, "--run", str(copy))
    assert status == 0 and "not exported: tree.threshold: changed in config.yaml" in out
    for name in ("adapters/verifier/README.md", "data/verifier/sft.parquet"):
        assert (copy / "export" / name).read_bytes() == (home / "run/export" / name).read_bytes()


def test_datasets_does_not_take_another_run_from_its_cache(home, copy, capsys):
    change(copy, "threshold: 0.15", "threshold: 0.4")
    assert run_export(capsys, "--run", str(copy))[0] == 0
    folder = copy / "export" / "data" / "verifier"
    theirs = rows(home, "verifier", "sft")["node"]
    mine = datasets.load_dataset(str(folder), "sft", cache_dir=str(home / "cache"))["train"]["node"]
    assert mine == pyarrow.parquet.read_table(folder / "sft.parquet")["node"].to_pylist() != theirs


# ---- what is missing ----


def test_an_unfinished_run_gives_what_it_has(home, copy, capsys):
    shutil.rmtree(copy / "adapters")
    shutil.rmtree(copy / "round-0" / "refiner")
    shutil.rmtree(copy / "round-0" / "verifier" / "dpo")
    (copy / "evaluation.json").unlink()
    status, out, err = run_export(capsys, "--run", str(copy))
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("not exported: ")]
    assert [line.removeprefix("not exported: ") for line in lines] == [
        "adapters/generator: training has not ended; round-0/generator/sft is used instead",
        "adapters/verifier: training has not ended; round-0/verifier/sft is used instead",
        "adapters/refiner: the run has none",
        "results in the cards: the run was not evaluated",
        "ref_*_logps of data/generator/dpo.parquet: the role had no DPO in round 0",
        "ref_*_logps of data/refiner/dpo.parquet: the role had no DPO in round 0",
    ]
    there = sorted(path.name for path in (copy / "export" / "adapters").iterdir())
    assert there == ["generator", "verifier"]
    written = json.loads((copy / "export" / "export.json").read_text())
    assert written["not_exported"] == [line.removeprefix("not exported: ") for line in lines]
    card = (copy / "export" / "adapters" / "verifier" / "README.md").read_text()
    assert "The run was not evaluated." in card and "DPO:" not in card


def damage_config(run: Path) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write("old_setting: 1\n")


def flip_samples(run: Path) -> None:
    file = run / "samples" / "samples-00000.arrows"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def other_questions(run: Path) -> None:
    lines = (run / "questions.jsonl").read_text().splitlines()
    (run / "questions.jsonl").write_text("\n".join([*lines[1:], lines[0]]) + "\n")


def fewer_questions(run: Path) -> None:
    lines = (run / "questions.jsonl").read_text().splitlines()
    (run / "questions.jsonl").write_text("\n".join(lines[1:]) + "\n")


LOST = {  # damage to a run that leaves no data to export, and the reason that is given
    "config of another version": (damage_config, "'old_setting' is not a setting"),
    "forest": (lambda run: (run / "round-0/forest.arrows").unlink(), "has not made it yet"),
    "damaged forest": (
        lambda run: (run / "round-0/forest.arrows").write_bytes(b"no"),
        "is damaged, or of another version",
    ),
    "samples": (lambda run: shutil.rmtree(run / "samples"), "holds no samples"),
    "damaged samples": (flip_samples, "can no longer be read"),
    "questions": (lambda run: (run / "questions.jsonl").unlink(), "questions.jsonl is missing"),
    "damaged questions": (lambda run: (run / "questions.jsonl").write_bytes(b"\xff"), "is damaged"),
    "other questions": (other_questions, "not those of questions.jsonl"),
    "fewer questions": (fewer_questions, "not those of questions.jsonl"),
    "wording": (lambda run: (run / "prompts.json").write_bytes(b"\xff{}"), "the prompts differ"),
}


@pytest.mark.parametrize("case", LOST)
def test_adapters_are_exported_where_data_cannot_be(copy, capsys, case):
    damage, reason = LOST[case]
    damage(copy)
    status, out, err = run_export(capsys, "--run", str(copy))
    assert (status, err) == (0, "")
    assert len([line for line in out.splitlines() if reason in line]) == 1, out
    assert sorted(p.name for p in (copy / "export" / "adapters").iterdir()) == sorted(CHAIN)
    assert not list((copy / "export").glob("data/*"))


def test_reference_log_probs_of_other_weights_are_left_out(home, copy, capsys):
    """The text is exported without them."""
    shutil.rmtree(copy / "round-0" / "verifier" / "sft")
    shutil.copytree(copy / "round-0" / "refiner" / "sft", copy / "round-0" / "verifier" / "sft")
    status, out, _ = run_export(capsys, "--run", str(copy))
    assert status == 0 and "of other weights or pairs" in out
    mine = pyarrow.parquet.read_table(copy / "export" / "data" / "verifier" / "dpo.parquet")
    assert "ref_chosen_logps" not in mine.column_names
    whole = set(rows(home, "verifier", "dpo").column_names)
    assert whole - set(mine.column_names) == {"ref_chosen_logps", "ref_rejected_logps"}


def test_damaged_parts_are_named_and_left_out(copy, capsys):
    (copy / "evaluation.json").write_text('{"systems": 3}')
    final = copy / "adapters" / "verifier" / "final"
    (final / "adapter_model.safetensors").write_bytes(b"short")
    (copy / "adapters" / "refiner" / "final" / "adapter_config.json").write_text("[]")
    status, out, err = run_export(capsys, "--run", str(copy))
    assert (status, err) == (0, "")
    assert "evaluation.json is damaged or of another version" in out
    assert f"adapters/verifier: the adapter '{final}' is damaged" in out
    assert "adapters/refiner: the adapter" in out
    assert [p.name for p in (copy / "export" / "adapters").iterdir()] == ["generator"]


def test_questions_that_were_changed_since(copy, capsys):
    """Their ids are the same."""
    path = copy / "questions.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    row = json.loads(first)
    path.write_text("".join([json.dumps(row | {"text": row["text"] + "?"}) + "\n", *rest]))
    status, out, err = run_export(capsys, "--run", str(copy))
    assert (status, err) == (0, "")
    assert "data of round-0/forest.arrows: its questions are not those of questions.jsonl" in out
    assert not (copy / "export" / "data").exists()


def test_an_adapter_without_a_seal_is_not_exported(copy, capsys):
    (copy / "adapters" / "verifier" / "final" / "stage.txt").unlink()
    status, out, _ = run_export(capsys, "--run", str(copy))
    assert status == 0 and "adapters/verifier: " in out and "lacks its seal, stage.txt" in out
    assert not (copy / "export" / "adapters" / "verifier").exists()


def test_one_export_writes_at_a_time(copy, capsys):
    out = copy / "export"
    out.mkdir()
    (out / "export.json").write_text("{}")
    script = "import sys, fcntl; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)"
    script += "; file.write('process 7 on here'); file.flush(); print(flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(out / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    other.stdout.readline()
    status, _, err = run_export(capsys, "--run", str(copy))
    other.communicate(b"")
    assert status == 2
    assert f"{out} is in use by process 7 on here: wait" in err and "another --out DIR" in err
    assert run_export(capsys, "--run", str(copy))[0] == 0


def test_the_base_model_that_an_adapter_names_is_not_merged_into(copy, capsys):
    """It could be anybody's: only the settings of the run say which it is."""
    (copy / "config.yaml").write_text("seed: none\n")
    assert export.main(["--run", str(copy), "--merged"]) == 0
    told = "not exported: merged/refiner: without the run's settings its base model is not known"
    assert told in capsys.readouterr().out and not (copy / "export" / "merged").exists()


def test_an_export_that_was_killed_at_its_start_is_no_obstacle(copy):
    (copy / "export").mkdir()
    (copy / "export" / ".export.json.1.new").write_text("{")
    assert export.main(["--run", str(copy)]) == 0
    assert not [*(copy / "export").rglob(".*")]


def test_adapters_that_are_replaced_while_they_are_copied(copy, capsys, monkeypatch):
    """The settings of one and the weights of another would be neither."""
    published, copyfile = copy / "adapters" / "refiner" / "final", shutil.copyfile

    def copy_and_replace(source, target):
        copyfile(source, target)
        if Path(source) == published / "adapter_config.json":
            for file in (copy / "round-0" / "refiner" / "sft").iterdir():
                copyfile(file, published / file.name)

    monkeypatch.setattr(export_folders.shutil, "copyfile", copy_and_replace)
    settings = json.loads((published / "adapter_config.json").read_text()) | {"lora_alpha": 99}
    (published / "adapter_config.json").write_text(json.dumps(settings))
    seal(published, "trained otherwise", ["adapter_config.json", "adapter_model.safetensors"])
    assert export.main(["--run", str(copy)]) == 2
    error = capsys.readouterr().err
    assert "was replaced while it was copied: export again when the run has ended" in error
    assert not (copy / "export" / "adapters" / "refiner").exists()


def test_adapters_of_a_training_before_are_named(copy, capsys):
    (copy / "round-0" / "verifier" / "dpo" / "stage.txt").write_text("another")
    _, out, _ = run_export(capsys, "--run", str(copy))
    assert "round-0/verifier/dpo: newer than adapters/verifier" in out


def test_stages_that_the_settings_no_longer_have_are_no_training_under_way(copy, capsys):
    """train.rounds was lowered, and a role left train.dpo_roles."""
    shutil.copytree(copy / "round-0" / "verifier", copy / "round-1" / "verifier")
    shutil.copytree(copy / "round-0" / "verifier" / "dpo", copy / "round-0" / "generator" / "dpo")
    (copy / "round-1" / "verifier" / "dpo" / "stage.txt").write_text("another")
    _, out, _ = run_export(capsys, "--run", str(copy))
    assert "newer than" not in out


def test_adapters_without_an_index_give_way_to_those_of_the_rounds(copy, capsys):
    (copy / "adapters" / "index.json").unlink()
    status, out, _ = run_export(capsys, "--run", str(copy))
    assert status == 0 and out.count("not exported: adapters: ") == 1
    assert "adapters/verifier: training has not ended; round-0/verifier/dpo is used instead" in out


def test_merging_without_the_base_model_is_named(home, copy, capsys):
    shutil.copytree(home / "model", copy.parent / "model")
    change(copy, str(home / "model"), str(copy.parent / "model"))
    (copy.parent / "model" / "model.safetensors").unlink()
    status, out, err = run_export(capsys, "--run", str(copy), "--merged")
    assert (status, err) == (0, "")
    assert out.count("not exported: merged/") == 3 and not list(copy.glob("export/merged/*"))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": True, "temperature": 0.6, "length_penalty": 2.0}, {"temperature": 0.6}),
    ],
)
def test_a_merged_checkpoint_has_a_generation_config_that_can_be_saved(
    given, kept, home, copy, capsys
):
    model = Path(shutil.copytree(home / "model", copy.parent / "model"))
    change(copy, str(home / "model"), str(model))
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | given))
    status, out, err = run_export(capsys, "--run", str(copy), "--merged")
    assert (status, err) == (0, "") and "not exported: merged" not in out
    merged = copy / "export" / "merged" / "refiner"
    written = json.loads((merged / "generation_config.json").read_text())
    assert written["eos_token_id"] == 2 and written.get("do_sample", False) == given["do_sample"]
    assert {key: written[key] for key in ("temperature", "top_p") if written.get(key)} == kept
    AutoModelForCausalLM.from_pretrained(merged)


def test_a_checkpoint_that_cannot_be_saved_is_named(home, copy, capsys, monkeypatch):
    def fail(self, folder, **_):
        raise ValueError("The generation config instance is invalid")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    status, out, err = run_export(capsys, "--run", str(copy), "--merged")
    assert (status, err) == (0, "") and not list(copy.glob("export/merged/*"))
    assert out.count("does not save it (The generation config instance is invalid)") == 3


def test_an_export_that_was_stopped_says_so(home, copy, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("malt_fast.results.export_run.export_data", stop)
    export.main(["--run", str(copy)])
    written = json.loads((copy / "export" / "export.json").read_text())
    assert written["folders"] == [] and "give the same command again" in written["not_exported"][0]


@pytest.mark.parametrize("family", ["qwen3-moe", "gemma3-images", "four-bit"])
def test_merged_checkpoints_of_other_families_are_base_and_adapter(family, tmp_path):
    full = write_family(family if family != "four-bit" else "llama", tmp_path / "full")
    adapter, base = make_adapter(full, tmp_path / "adapter", 0), full
    if family == "four-bit":
        pytest.importorskip("bitsandbytes")
        four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
        stored = AutoModelForCausalLM.from_pretrained(full, quantization_config=four_bit)
        stored.save_pretrained(base := str(tmp_path / "base"))
    byte_tokenizer().save_pretrained(base)
    config = make_config({"model": {"name_or_path": base}})
    facts = Facts("run", config, None, Markup(), {"refiner": Adapter(Path(adapter), "sft")})
    model, _ = merge(facts, "refiner")
    model.save_pretrained(tmp_path / "merged")
    ids = torch.arange(3, 23)[None]
    twin = load_causal(base, dtype=torch.float32)
    twin = peft.PeftModel.from_pretrained(twin, adapter).eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        found, expected = merged(ids).logits, twin(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# ---- mistakes ----


def test_mistakes_are_one_sentence(home, copy, tmp_path, capsys):
    run = str(copy)
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copyfile(copy / "config.yaml", empty / "config.yaml")
    cases = {
        (): "--run is missing",
        ("--run",): "--run",
        ("--run", run, "--mergd"): "mergd",
        ("--run", str(tmp_path / "nowhere")): "holds no run",
        ("--run", "a\0b"): "NUL",
        ("--run", run, "--out", run): "is no export",
        ("--run", run, "--out", str(tmp_path / "mine")): "is no export",
        ("--run", run, "--out", str(tmp_path / "file")): "is no export",
        ("--run", run, "--out", str(tmp_path / "file" / "below")): "cannot be used",
        ("--run", str(empty)): "holds nothing to export yet",
    }
    before = every_file(copy)
    for argv, reason in cases.items():
        status, _, err = run_export(capsys, *argv)
        assert status == 2 and err.startswith("error: ") and reason in err, (argv, err)
    assert every_file(copy) == before and not (empty / "export").exists()
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


# ---- the hub ----


class FakeHub:
    """What `HfApi` is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.made: list[tuple] = []
        self.sent: dict[tuple, list[str]] = {}

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        if self.error:
            raise self.error
        self.made.append((repo_id, repo_type, private, exist_ok))
        place = "datasets/" if repo_type == "dataset" else ""
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{place}{repo_id}")

    def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message):
        self.sent[repo_id, repo_type] = sorted(p.name for p in Path(folder_path).iterdir())


def test_pushing(home, monkeypatch, capsys):
    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    argv = ("--run", str(home / "run"), "--merged", "--push_to_hub", "me/malt")
    status, out, err = run_export(capsys, *argv)
    assert (status, err) == (0, "") and "https://huggingface.co/datasets/me/malt-refiner" in out
    assert all(private and again for _, _, private, again in hub.made)
    names = [f"me/malt-{role}" for role in CHAIN]
    expected = {(name, kind) for name in names for kind in ("model", "dataset")}
    assert set(hub.sent) == expected | {(f"{name}-merged", "model") for name in names}
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert hub.sent["me/malt-verifier", "model"] == files
    data = ["README.md", "dpo.parquet", "kto.parquet", "prm.parquet", "sft.parquet"]
    assert hub.sent["me/malt-verifier", "dataset"] == data


def test_what_the_hub_refuses_is_one_sentence(home, monkeypatch, tmp_path, capsys):
    argv = ("--run", str(home / "run"), "--out", str(tmp_path / "out"), "--push_to_hub")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    status, _, err = run_export(capsys, *argv, "me/malt")
    assert status == 2 and "no Hugging Face token" in err
    status, _, err = run_export(capsys, *argv, "me/m/a")
    assert status == 2 and "cannot name a repository" in err
    assert not (tmp_path / "out").exists()  # before any work
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(
        huggingface_hub, "HfApi", lambda: FakeHub(httpx.ConnectError("no route\nx"))
    )
    status, _, err = run_export(capsys, *argv, "me/malt")
    assert status == 2 and "(no route)" in err and "cannot be pushed to me/malt-generator" in err
    assert (tmp_path / "out" / "adapters" / "verifier").is_dir()


# ---- the console script ----


def test_the_console_script_lists_and_dispatches(monkeypatch, capsys):
    assert __main__.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith("  ")]
    listed = [line.split()[0] for line in shown if not line.startswith("  malt-fast ")]
    assert {"train", "evaluate", "export", "serve"} <= set(listed)
    for name in listed:
        try:
            status = __main__.main([name, "--help"])
        except SystemExit as stop:
            status = stop.code
        assert status == 0 and f"malt_fast.{name}" in capsys.readouterr().out
    assert __main__.main(["exprt"]) == 2
    assert "did you mean 'export'" in capsys.readouterr().err
    assert __main__.main(["export", "--run", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere holds no run")


def test_help_of_the_console_script_imports_nothing_heavy():
    code = "import sys; from malt_fast.__main__ import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "pydantic", "rich"} & set(done.stdout.split())
    script = Path(sys.executable).with_name("malt-fast")
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    as_module = [sys.executable, "-m", "malt_fast"]
    assert subprocess.run(as_module, capture_output=True, text=True).stdout == shown.stdout


# ---- the documentation ----


def test_python_of_the_documentation_runs(home, tmp_path, monkeypatch):
    pytest.importorskip("trl")
    pytest.importorskip("polars")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "gsm8k").symlink_to(home / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(block.replace("max_steps=10", "max_steps=10, use_cpu=True, bf16=False"), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 10
    learnt = [[t for t in row["labels"] if t != -100] for row in trainer.train_dataset]
    assert learnt == list(names["examples"]["completion_ids"]) and all(learnt)


# ---- logs of Inspect ----


def test_logs_of_inspect(evaluated: Path, tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log")
    result = read_checked(evaluated / "evaluation.json")
    assert export.main(["--run", str(evaluated), "--out", str(tmp_path / "x"), "--inspect"]) == 0
    files = sorted((tmp_path / "x" / "inspect").iterdir())
    assert len(files) == len(result["systems"])
    lines = (evaluated / "evaluation.jsonl").read_text().splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    for file, system in zip(files, result["systems"], strict=True):
        found = log.read_eval_log(str(file))
        assert found.status == "success" and found.eval.metadata["system"] == system["name"]
        assert found.results.scores[0].metrics["accuracy"].value == system["accuracy"]
        assert len(found.samples) == 20 * len(system["passes"])
        for sample in found.samples:
            row, slots = rows[sample.id], system["passes"][sample.epoch - 1]
            (score,) = sample.scores.values()
            assert (score.value == "C") == bool(row["right"][slots[-1]])
            assert sample.target == row["gold"] and sample.input == row["text"]
            roles = [message.metadata["role"] for message in sample.messages]
            assert roles[::2] == roles[1::2] == system["turns"]
            for k, name in enumerate(system["turns"][1:], 1):  # each reads the draft
                own = name == "debater" or sample.messages[1].text in sample.messages[2 * k].text
                assert own and row["text"] in sample.messages[2 * k].text


def test_inspect_is_asked_for_before_any_work(evaluated: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    assert export.main(["--run", str(evaluated), "--out", str(tmp_path / "x"), "--inspect"]) == 2
    error = capsys.readouterr().err
    assert "--inspect needs the package inspect_ai: pip install" in error
    assert not (tmp_path / "x").exists()


def test_inspect_of_a_run_without_evaluation_is_named(
    evaluated: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("malt_fast.results.export_run.check_inspect", lambda: None)
    copy = Path(shutil.copytree(evaluated, tmp_path / "run"))
    (copy / "evaluation.jsonl").unlink()
    assert export.main(["--run", str(copy), "--inspect"]) == 0
    assert "not exported: transcripts: evaluation.jsonl is missing" in capsys.readouterr().out
    (copy / "evaluation.json").unlink()
    assert export.main(["--run", str(copy), "--inspect"]) == 0
    assert "not exported: inspect: the run has no evaluation" in capsys.readouterr().out
