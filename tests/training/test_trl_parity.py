"""DPO on the same pairs here and in TRL's DPOTrainer: equal losses and gradients."""

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from malt_fast.config.schema import DPOStageConfig
from malt_fast.training.adapters import LogProbModel
from malt_fast.training.arguments import training_arguments
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.references import References
from malt_fast.training.trainer import StageTrainer
from tests.tiny import byte_tokenizer, tiny_llama
from tests.training.test_trainer import role_data

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

BETA = 0.3
CASES = {  # ours -> TRL's
    "sigmoid": ({}, {"loss_type": ["sigmoid"]}),
    "hinge": ({"loss_type": "hinge"}, {"loss_type": ["hinge"]}),
    "ipo": ({"loss_type": "ipo"}, {"loss_type": ["ipo"]}),
    "rpo": ({"rpo_alpha": 0.7}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
    "smoothing": (
        {"label_smoothing": 0.1},
        {"loss_type": ["sigmoid", "robust"], "loss_weights": [1.8, -0.8], "label_smoothing": 0.1},
    ),
}


def adapted(base):
    """The tiny model under an adapter with B not zero, so that every LoRA matrix has a gradient."""
    torch.manual_seed(1)
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def gradients(model):
    return {
        name.removeprefix("peft_model."): p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def theirs(base, data, settings, folder):
    args = trl.DPOConfig(
        str(folder),
        beta=BETA,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        per_device_train_batch_size=len(data.pairs),
        max_length=None,
        disable_tqdm=True,
        **settings,
    )
    rows = [
        {
            "prompt_ids": data.prompts[c].tolist(),
            "chosen_ids": data.completions[c].tolist(),
            "rejected_ids": data.completions[r].tolist(),
        }
        for c, r in data.pairs
    ]

    class Tokenised(trl.DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    trainer = Tokenised(
        adapted(base),
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
    )
    with (
        torch.no_grad()
    ):  # leave the reference (TRL's copy "ref") behind, so that the margins are not zero
        for name, parameter in trainer.model.named_parameters():
            if ".default." in name and "lora_B" in name:
                parameter.mul_(2)
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss, gradients(trainer.model), {k: v[0] for k, v in trainer._metrics["train"].items()}


def ours(base, data, settings, folder):
    config = DPOStageConfig(beta=BETA, per_device_train_batch_size=len(data.pairs), **settings)
    peft_model = adapted(base)
    packer = Packer("dpo", data, Packing("rows", 0, len(data.pairs), "cpu"))
    args = training_arguments(config, folder, "cpu", 0)
    trainer = StageTrainer(packer, LogProbModel(peft_model), config, args)
    peft_model.save_pretrained(folder)
    source = (base, folder, ("float32", False))  # a folder: with the adapter
    trainer.references = References(folder / "references.npz", data, source)
    trainer.set_references(trainer.model)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(2)
    trainer.model.train()
    (batch,), items, _ = packer(range(len(data.pairs)))
    loss = trainer.batch_loss(trainer.model, batch, items)
    loss.backward()
    logs = {}
    trainer.log(logs)
    return loss, gradients(trainer.model), logs


@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_metrics_equal_trls(name, tmp_path):
    base = str(tiny_llama(tmp_path / "base"))
    data = role_data(questions=4)
    mine, their = CASES[name]
    loss, grads, logs = ours(base, data, mine, tmp_path / "ours")
    trl_loss, trl_grads, trl_logs = theirs(base, data, their, tmp_path / "trl")
    assert loss.item() == pytest.approx(trl_loss.item(), rel=1e-5)
    assert grads.keys() == trl_grads.keys() and grads
    for key, grad in grads.items():
        error = (grad - trl_grads[key]).norm() / trl_grads[key].norm()
        assert error < 1e-5, (key, error)
    for key in (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    ):
        assert logs[key] == pytest.approx(trl_logs[key], rel=1e-4, abs=1e-5)
    assert np.abs(trl_logs["rewards/margins"]) > 1e-4
