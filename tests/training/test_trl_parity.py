"""DPO and KTO here and in TRL's DPOTrainer and KTOTrainer: equal losses and gradients."""

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from malt_fast.config.stages import DPOStageConfig
from malt_fast.training.adapters import LogProbModel
from malt_fast.training.arguments import training_arguments
from malt_fast.training.mismatches import Mismatches
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.references import References
from malt_fast.training.trainer import StageTrainer
from tests.tiny import byte_tokenizer, tiny_llama
from tests.training.test_trainer import labels, role_data

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
    rows = [
        {
            "prompt_ids": data.prompts[c].tolist(),
            "chosen_ids": data.completions[c].tolist(),
            "rejected_ids": data.completions[r].tolist(),
        }
        for c, r in data.pairs
    ]
    return measured(trl.DPOTrainer, trl.DPOConfig, base, rows, settings, folder)


def theirs_of_labels(base, data, settings, folder):
    """One row per prompt, so that TRL's mismatches are those of the whole batch."""
    rows = [
        {
            "prompt_ids": data.prompts[i].tolist(),
            "completion_ids": data.completions[i].tolist(),
            "KL_completion_ids": data.completions[k].tolist(),
            "label": bool(label),
        }
        for (i, label), (k, _) in zip(data.labelled, np.roll(data.labelled, 1, 0), strict=True)
    ]
    return measured(trl.KTOTrainer, trl.KTOConfig, base, rows, settings, folder)


def measured(trainer_type, config_type, base, rows, settings, folder):
    """(loss, gradients, metrics) of a batch with all rows."""
    args = config_type(
        str(folder),
        beta=BETA,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        per_device_train_batch_size=len(rows),
        max_length=None,
        disable_tqdm=True,
        **settings,
    )

    class Tokenised(trainer_type):
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
    rows = data.rows("dpo")
    config = DPOStageConfig(beta=BETA, per_device_train_batch_size=rows, **settings)
    peft_model = adapted(base)
    args = training_arguments(config, folder, "cpu", 0)
    mismatches = Mismatches(data, [np.arange(rows)], 10**6) if len(data.labelled) else None
    packer = Packer("dpo", data, Packing("rows", 0, rows, "cpu"), mismatches)
    trainer = StageTrainer(packer, LogProbModel(peft_model), config, args)
    peft_model.save_pretrained(folder)
    source = (base, folder, ("float32", False))  # a folder: with the adapter
    others = len(packer.data) - len(data)
    trainer.references = References(folder / "references.npz", packer.data, source, others)
    trainer.set_references(trainer.model)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(2)
    trainer.model.train()
    loss = trainer.step_loss(trainer.model, packer(range(rows)))
    logs = {}
    trainer.log(logs)
    return loss, gradients(trainer.model), logs


METRICS = (
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"),
)


def assert_agree(mine, their, *more):
    (loss, grads, logs), (trl_loss, trl_grads, trl_logs) = mine, their
    assert loss.item() == pytest.approx(trl_loss.item(), rel=1e-5)
    assert grads.keys() == trl_grads.keys() and grads
    for key, grad in grads.items():
        error = (grad - trl_grads[key]).norm() / trl_grads[key].norm()
        assert error < 1e-5, (key, error)
    for key in (*METRICS, *more):
        assert logs[key] == pytest.approx(trl_logs[key], rel=1e-4, abs=1e-5), key
    assert np.abs(trl_logs["rewards/margins"]) > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_metrics_equal_trls(name, tmp_path):
    base, data = str(tiny_llama(tmp_path / "base")), role_data(questions=4)
    mine, their = CASES[name]
    assert_agree(
        ours(base, data, mine, tmp_path / "ours"),
        theirs(base, data, their, tmp_path / "trl"),
        "rewards/accuracies",
    )


@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 0.6, "undesirable_weight": 1.7}])
@pytest.mark.parametrize("seed", [4, 6])
def test_kto_equals_trls(seed, weights, tmp_path):
    base, data = str(tiny_llama(tmp_path / "base")), labels(role_data(6, 1, seed=seed))
    mine = ours(base, data, weights | {"loss_type": "kto"}, tmp_path / "ours")
    assert_agree(mine, theirs_of_labels(base, data, weights, tmp_path / "trl"), "kl")
    assert mine[2]["kl"] > 0.1 if seed == 6 else mine[2]["kl"] == 0  # clamped
