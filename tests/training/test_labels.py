"""Every label in the loss of preferences: pairs weighted by their values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from malt_fast.kernels import dpo_loss

from malt_fast.config.schema import DPOStageConfig
from malt_fast.training.arguments import training_arguments
from malt_fast.training.packing import Packer, Packing, completion_logps
from malt_fast.training.trainer import StageTrainer
from tests.training.test_packing import adapted
from tests.training.test_trainer import base, role_data  # noqa: F401
from tests.training.test_trl_parity import gradients

BETA = 0.3


def step(base, data, folder, layout="trees", tokens=10**6, **settings):  # noqa: F811
    """(loss, gradients, log line, trainer) of one step with all rows; references are all -20."""
    rows = data.rows("dpo")
    config = DPOStageConfig(beta=BETA, per_device_train_batch_size=rows, **settings)
    packer = Packer("dpo", data, Packing(layout, tokens, 2, "cpu"))
    arguments = training_arguments(config, folder, "cpu", 0)
    trainer = StageTrainer(packer, adapted(base, layout), config, arguments)
    trainer._ref_logp = torch.full([len(packer.data)], -20.0)
    trainer.model.train()
    loss = trainer.step_loss(trainer.model, packer(range(rows)))
    logs: dict[str, float] = {}
    trainer.log(logs)
    return loss, gradients(trainer.model), logs, trainer


def test_a_weighted_pair_counts_as_often_as_its_weight_says(base, tmp_path):  # noqa: F811
    """Against plain torch, and against the same pairs given that many times."""
    data = role_data(questions=3)
    weights = np.array([0.5, 2, 1, 0.25, 1.5, 0.75])
    weighted = replace(data, weights=weights)
    loss, grads, _, trainer = step(base, weighted, tmp_path / "trees", tokens=40)
    model = trainer.model.eval()
    with torch.no_grad():
        (batch,) = Packer("dpo", data, Packing("trees", 10**6, 99, "cpu"))(range(6)).batches
        logp = completion_logps(model(batch), batch)
    pairs = dpo_loss(logp, torch.full_like(logp, -20.0), batch.pairs, beta=BETA).losses
    assert loss.item() == pytest.approx((pairs * torch.tensor(weights)).mean().item(), rel=1e-5)
    rows = step(base, weighted, tmp_path / "rows", layout="rows")
    often = (4 * weights).astype(int)  # 24 pairs
    repeated = replace(data, pairs=np.repeat(data.pairs, often, axis=0))
    for other in (rows, step(base, repeated, tmp_path / "repeated")):
        assert other[0].item() == pytest.approx(loss.item(), rel=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(other[1][name], grad, rtol=1e-4, atol=1e-6)
