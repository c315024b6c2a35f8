"""A run taken elsewhere: into TRL, PEFT and merged checkpoints, and what may be missing."""

import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from malt_fast import export
from malt_fast.adapters import load_model
from malt_fast.config import LoraConfig, make_config, read_yaml
from malt_fast.export_rows import as_texts
from malt_fast.packing import Packer, Packing, completion_logps
from malt_fast.preferences import select_pairs
from malt_fast.roles import Prompts, RolePrompt
from malt_fast.train import propagate
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
    """A finished run whose outputs are mostly `1</s>` or `2</s>`, some cut off; its export."""
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
    """The run without its export, to be spoilt."""
    shutil.copytree(home / "run", tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    return tmp_path / "run"


def rows(home: Path, role: str, kind: str):
    folder = home / "run" / "export" / "data" / role
    return datasets.load_dataset(str(folder), kind, cache_dir=str(home / "cache"))["train"]


def told(capsys, *argv: str) -> tuple[int, str, str]:
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
    credit = propagate(config, forest)
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
    credit = propagate(config, forest)
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


def test_texts_that_do_not_give_back_their_tokens_are_told():
    """Cut off, half a character, a control token inside, another split, a prompt of another."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["ab"])
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
    """Train one step; the first log line. The weights must have moved."""
    watched = next(p for n, p in trainer.model.named_parameters() if "lora_B.default" in n)
    before = watched.detach().clone()
    trainer.train()
    assert not torch.equal(before, watched)
    return trainer.state.log_history[0]


def adapted(home: Path, adapter: Path):
    base = AutoModelForCausalLM.from_pretrained(home / "model")
    return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)


def test_dpo_trainer_takes_pairs_and_reference_log_probs(home, tmp_path):
    """From the SFT adapter the first loss is ln 2, under our references as under TRL's own."""
    trl = pytest.importorskip("trl")
    table = rows(home, "verifier", "dpo").filter(lambda row: row["exact"])
    assert len(table) >= 4
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
    """Log-probs of completions, a row at a time, by transformers' own logits."""
    found = []
    for row in table:
        ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
        logits = model(input_ids=ids).logits[0].log_softmax(-1)
        own = range(len(row["prompt_ids"]), ids.shape[1])
        found.append(sum(logits[i - 1, ids[0, i]].item() for i in own))
    return found


@torch.no_grad()
def our_logps(home: Path, adapter: Path, role: str) -> list[float]:
    """The same by the model that roles are trained with, on packs of trees."""
    from malt_fast.batches import RoleData

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
