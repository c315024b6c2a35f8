"""Every label in the loss of preferences: pairs weighted by their values, KTO, and both."""

import math

import numpy as np
import pytest
import torch
from malt_fast.kernels import dpo_loss

from malt_fast.config.stages import DPOStageConfig
from malt_fast.training import trainer
from malt_fast.training.arguments import training_arguments
from malt_fast.training.batches import sampler_of
from malt_fast.training.losses import kto_loss
from malt_fast.training.mismatches import Mismatches, all_steps
from malt_fast.training.packing import Packer, Packing, completion_logps
from malt_fast.training.trainer import StageTrainer
from tests.training.test_packing import adapted
from tests.training.test_trainer import (  # noqa: F401
    assert_same,
    base,
    labels,
    role_data,
    sft,
    train,
    weights,
)
from tests.training.test_trl_parity import gradients

BETA, REFERENCE = 0.3, -60.0
BOTH = {"loss_type": "sigmoid+kto", "desirable_weight": 0.7, "undesirable_weight": 1.3}


def stage_of(base, data, folder, layout="trees", tokens=10**6, epochs=1, size=99, **settings):  # noqa: F811
    """A trainer whose references are all -60, ready for steps of `size` rows."""
    given = {"per_device_train_batch_size": size, "num_train_epochs": epochs}
    config = DPOStageConfig(beta=BETA, **given, **settings)
    arguments = training_arguments(config, folder, "cpu", 0)
    steps = all_steps(sampler_of("dpo", data, size, 0), arguments)
    mismatches = Mismatches(data, steps, 10**6) if len(data.labelled) else None
    packer = Packer("dpo", data, Packing(layout, tokens, 2, "cpu"), mismatches)
    found = StageTrainer(packer, adapted(base, layout), config, arguments)
    found._ref_logp = torch.full([len(packer.data)], REFERENCE)
    found.model.train()
    return found


def step(base, data, folder, **settings):  # noqa: F811
    """(loss, gradients, log line, trainer) of one step with all rows."""
    found = stage_of(base, data, folder, **settings)
    loss = found.step_loss(found.model, found.packer(range(data.rows("dpo"))))
    logs: dict[str, float] = {}
    found.log(logs)
    return loss, gradients(found.model), logs, found


def logps_of(found, data):
    """The log-prob of every completion of `data`, of pairs or not."""
    model = found.model.eval()
    every = np.arange(len(data))
    layout = found.packer.packing.layout
    (batch,) = Packer("sft", data, Packing(layout, 10**6, 10**6, "cpu")).cut(every, data.pairs[:0])[
        0
    ]
    with torch.no_grad():
        out = torch.zeros(len(data))
        out[batch.completions] = completion_logps(model(batch), batch)
    model.train()
    return out


# ---- KTO ----


@pytest.mark.parametrize("loss_type", ["kto", "sigmoid+kto"])
def test_packs_rows_and_small_packs_agree(loss_type, base, tmp_path):  # noqa: F811
    data = labels(role_data(questions=4), pairs=loss_type != "kto", again=[2, 3])
    settings = BOTH | {"loss_type": loss_type}
    loss, grads, logs, _ = step(base, data, tmp_path / "trees", **settings)
    assert logs["kl"] > 0.1 and logs["num_tokens"] > 0
    small = step(base, data, tmp_path / "small", tokens=45, **settings)
    rows = step(base, data, tmp_path / "rows", layout="rows", **settings)
    assert len(small[3].packer(range(data.rows("dpo"))).mismatched) > 1
    for other in (small, rows):
        assert other[0].item() == pytest.approx(loss.item(), rel=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(other[1][name], grad, rtol=1e-4, atol=1e-6)
        for name in logs.keys() - {"num_tokens"}:
            assert other[2][name] == pytest.approx(logs[name], rel=1e-4), name


def test_an_epoch_is_the_mean_over_pairs_plus_the_mean_over_labels(base, tmp_path):  # noqa: F811
    """Whatever the steps hold of each: against plain torch, with the KL of each step."""
    data = labels(role_data(questions=4), pairs=True, again=[5])
    found = stage_of(base, data, tmp_path, size=5, **BOTH)
    logp, pairs = logps_of(found, data), len(data.pairs)
    reference = torch.full_like(logp, REFERENCE)
    losses = dpo_loss(logp, reference, torch.from_numpy(data.pairs), beta=BETA).losses
    total, expected, rows = 0.0, losses.mean().item(), data.rows("dpo")
    order = list(found._sampler())
    held = set()
    for start in range(0, rows, 5):
        some = np.array(order[start : start + 5])
        total += found.step_loss(found.model, found.packer(some)).item() * len(some) / rows
        logs: dict[str, float] = {}
        found.log(logs)
        own = data.labelled[some[some >= pairs] - pairs]
        held.add(len(own))
        if len(own):
            i, good = own[:, 0], torch.from_numpy(own[:, 1] == 1)
            kl, one = torch.tensor(logs.get("kl", 0.0)), (logp[i], reference[i], good)
            some_losses = kto_loss(
                *one, kl, beta=BETA, desirable_weight=0.7, undesirable_weight=1.3
            ).losses
            assert logs["loss/kto"] == pytest.approx(some_losses.mean().item(), rel=1e-4)
            expected += some_losses.sum().item() / len(data.labelled)
    assert len(held) > 1
    assert total == pytest.approx(expected, rel=1e-5)


def test_kto_starts_at_a_half_and_both_at_ln_2_more(base, sft, tmp_path):  # noqa: F811
    data, _, start = sft
    shared = {"init": start.adapter, "num_train_epochs": 4, "save_steps": 2}
    lines = []
    alone = {"loss_type": "kto", "per_device_train_batch_size": 9} | shared
    train("dpo", labels(data), base, tmp_path / "kto", on_log=lines.append, **alone)
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert lines[-2]["loss"] < 0.49 and lines[-2]["rewards/margins"] > 0.1
    lines = []
    both = {"loss_type": "sigmoid+kto", "per_device_train_batch_size": 99} | shared
    train("dpo", labels(data, pairs=True), base, tmp_path / "a", on_log=lines.append, **both)
    assert lines[0]["loss"] == pytest.approx(math.log(2) + 0.5, abs=1e-6)
    assert lines[0]["loss/sigmoid"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[0]["loss/kto"] == pytest.approx(0.5, abs=1e-6)
    assert lines[-2]["loss"] < lines[0]["loss"] - 0.05


@pytest.mark.parametrize("loss_type", ["kto", "sigmoid+kto"])
def test_a_stopped_stage_ends_with_the_same_weights(loss_type, base, sft, tmp_path, monkeypatch):  # noqa: F811
    """Stopped among its reference log-probs, and in its second epoch."""
    _, _, start = sft
    data = labels(role_data(questions=5), pairs=loss_type != "kto")
    data.labelled[:, 1] = 1  # so that the KL divergence grows
    settings = {
        **{"init": start.adapter, "num_train_epochs": 3.5, "save_steps": 1, "loss_type": loss_type},
        **{"per_device_train_batch_size": 5, "learning_rate": 3e-2},
    }
    monkeypatch.setattr(trainer, "REFERENCES", 8)
    lines = []
    whole = train("dpo", data, base, tmp_path / "whole", on_log=lines.append, **settings)
    assert loss_type != "kto" or any(line.get("kl", 0) > 0 for line in lines)
    compute, calls = StageTrainer._reference_logps, []

    def counted(self, *given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "_reference_logps", counted)
        with pytest.raises(KeyboardInterrupt):
            train("dpo", data, base, tmp_path / "x" / "killed", **settings)

    def kill(line):
        if line["step"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("dpo", data, base, tmp_path / "x" / "killed", on_log=kill, **settings)
    again = []
    resumed = train("dpo", data, base, tmp_path / "x" / "killed", on_log=again.append, **settings)
    assert again[0]["step"] == 6
    assert_same(weights(whole.adapter), weights(resumed.adapter), rtol=0, atol=0)


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_kind_are_trained_on(label, base, tmp_path):  # noqa: F811
    data = labels(role_data(questions=3))
    data.labelled[:, 1] = label
    lines = []
    settings = {"loss_type": "kto", "per_device_train_batch_size": 9, "num_train_epochs": 3}
    train("dpo", data, base, tmp_path / "a", on_log=lines.append, **settings)
    assert "rewards/margins" not in lines[0]
    side, sign = (("chosen", 1), ("rejected", -1))[1 - label]
    assert sign * lines[-2][f"rewards/{side}"] > 0


# ---- mismatches ----


def test_mismatches_are_the_completions_of_a_step_with_other_prompts():
    data = labels(role_data(questions=5, n=4), again=[3])
    rows = np.random.default_rng(0).permutation(data.rows("dpo"))
    found = Mismatches(data, iter([rows]), 10**6)
    some = found.of(rows)
    said, asked = found.data.nodes[some], found.data.trees[some]
    assert sorted(said) == sorted(data.labelled[:, 0])
    assert sorted(asked) == sorted(data.trees[data.labelled[:, 0]])
    assert (asked != data.trees[said]).all()
    for i, node in zip(some, said, strict=True):
        assert found.data.completions[i].tolist() == data.completions[node].tolist()
    assert found.of(rows[::-1]).tolist() == some.tolist(), "whatever the order in the step"


def test_one_completion_per_prompt_is_rotated_as_in_trl():
    data = labels(role_data(questions=5, n=1))
    rows = np.arange(5)
    found = Mismatches(data, iter([rows]), 10**6)
    before = np.roll(rows, 1)
    assert [found.data.completions[i].tolist() for i in found.of(rows)] == [
        data.completions[i].tolist() for i in before
    ]
    assert [found.data.prompts[i].tolist() for i in found.of(rows)] == [
        prompt.tolist() for prompt in data.prompts
    ]


def test_a_step_without_other_prompts_has_no_mismatches(base, tmp_path):  # noqa: F811
    data = labels(role_data(questions=3, n=4))
    lopsided = np.array([0, 1, 2, 3, 4])  # four of one prompt, one of another
    found = Mismatches(data, iter([np.arange(4), lopsided]), 10**6)
    assert not len(found.of(np.arange(4)))
    assert len(found.of(lopsided)) == 2
    one = labels(role_data(questions=1))
    assert "kl" not in step(base, one, tmp_path, loss_type="kto")[2]


def test_mismatches_are_cut_to_the_length_that_fits():
    data = labels(role_data(questions=4))
    longest = max(len(p) + len(c) for p, c in zip(data.prompts, data.completions, strict=True))
    rows = np.arange(len(data))
    free = Mismatches(data, iter([rows]), 10**6).data
    cut = Mismatches(data, iter([rows]), longest).data
    sizes = [
        [len(p) + len(c) for p, c in zip(d.prompts, d.completions, strict=True)]
        for d in (free, cut)
    ]
    assert max(sizes[0]) > longest == max(sizes[1])
    assert [min(size, longest) for size in sizes[0]] == sizes[1]


@pytest.mark.parametrize(
    "length",
    [{"num_train_epochs": 2.3}, {"max_steps": 11}, {"max_steps": 2}, {"num_train_epochs": 1}],
)
def test_all_steps_are_those_that_the_trainer_makes(length, base, tmp_path, monkeypatch):  # noqa: F811
    data, made = labels(role_data(questions=5), pairs=True), []
    call = Packer.__call__

    def noted(self, indices):
        made.append(list(indices))
        return call(self, indices)

    monkeypatch.setattr(Packer, "__call__", noted)
    settings = {"loss_type": "sigmoid+kto", "per_device_train_batch_size": 6} | length
    train("dpo", data, base, tmp_path / "a", **settings)
    given = {"per_device_train_batch_size": 6} | length
    arguments = training_arguments(DPOStageConfig(**given), tmp_path, "cpu", 7)
    expected = [rows.tolist() for rows in all_steps(sampler_of("dpo", data, 6, 7), arguments)]
    begun = next(i for i, rows in enumerate(made) if rows != [0])
    assert made[begun:][: len(expected)] == expected
