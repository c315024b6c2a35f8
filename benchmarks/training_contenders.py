"""The contenders of bench_training.py: steps of malt-fast's trainer and of TRL's trainers."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
import trl
from tokenizers import Tokenizer, models
from training_workload import VOCABULARY
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from malt_fast.config.schema import LoraConfig
from malt_fast.config.stages import DPOStageConfig, StageConfig
from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.models.liger import exchange_layers
from malt_fast.training.adapters import load_model
from malt_fast.training.arguments import training_arguments
from malt_fast.training.checkpointing import switch
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.stage import Layout, Method
from malt_fast.training.trainer import StageTrainer

LORA = LoraConfig(r=16, lora_alpha=16)
TRL_PACK = 4096  # tokens: longer packs are slower on a CPU, where their mask is dense
BETA, LEARNING_RATE = 0.1, 1e-4


@dataclass(frozen=True)
class Setting:
    device: str
    dtype: str
    model: dict[str, int]  # of LlamaConfig
    steps: int
    size: int  # pairs or examples per step
    stages: tuple[str, ...]
    layouts: tuple[Layout, ...] = ("trees", "rows")
    micro: tuple[int, ...] = (0, 4)  # pairs per micro-batch of TRL; 0: the whole step at once
    methods: tuple[Method, ...] = ("none",)  # of checkpointing; TRL has none and full
    in_turns: bool = True  # step by step, in one process; else one contender after another

    @property
    def bf16(self) -> bool:
        """Whether autocast is on."""
        return self.dtype == "bfloat16"


class Way(NamedTuple):
    """How the layers of a contender run."""

    method: Method  # of checkpointing
    fused: bool = False  # Liger's norms, rotary embeddings and MLPs; Triton, so on a GPU only


def random_model(folder: Path, setting: Setting) -> str:
    config = LlamaConfig(
        **setting.model,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        dtype=setting.dtype,
    )
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = LlamaForCausalLM(config).to(getattr(torch, setting.dtype))
    model.save_pretrained(folder)
    return str(folder)


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"<{i}>": i for i in range(VOCABULARY)}
    model = Tokenizer(models.WordLevel(words, unk_token="<2>"))
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<1>", pad_token="<0>")


Step = Callable[[np.ndarray], float]  # indices of pairs or examples -> loss; updates the weights


def malt_fast(
    stage: Stage,
    layout: Layout,
    way: Way,
    base: str,
    data: RoleData,
    args: argparse.Namespace,
    folder: Path,
) -> tuple[Step, np.ndarray]:
    """A step of malt-fast's trainer, and for DPO the reference log-probs of all completions."""
    setting: Setting = args.setting
    common = {"learning_rate": LEARNING_RATE, "per_device_train_batch_size": setting.size}
    dpo = stage == "dpo"
    kind = partial(DPOStageConfig, beta=BETA) if dpo else StageConfig
    settings = kind(**common, bf16=setting.bf16)
    arguments = training_arguments(settings, folder, setting.device, 0)
    packing = Packing(layout, args.pack_tokens, setting.size, setting.device)
    packer = Packer(stage, data, packing)
    model = load_model(base, None, LORA, dtype=setting.dtype, seed=0, layout=layout)
    trainer = StageTrainer(packer, model, settings, arguments)
    trainer.accelerator.prepare_model(model)  # as Trainer.train does: autocast
    if way.fused:
        trainer.fuse_layers()
    switch(model, way.method)
    logp = np.full(len(data), np.nan, np.float32)
    if dpo:
        every = np.unique(data.pairs)
        logp[every] = trainer._reference_logps(model, every, True)
        trainer._ref_logp = torch.from_numpy(logp).to(setting.device)
    optimizer = adamw(model)

    def step(indices: np.ndarray) -> float:
        loss = trainer.training_step(model, trainer._thread.submit(packer, indices.tolist()))
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, logp


def trl_dpo(
    base: str,
    data: RoleData,
    logp: np.ndarray,
    pairs_a_batch: int,
    way: Way,
    setting: Setting,
    folder: Path,
) -> Step:
    """A step of TRL's DPOTrainer in micro-batches; the adapter has the same initial weights."""
    rows = [
        {
            "prompt_ids": data.prompts[c].tolist(),
            "chosen_ids": data.completions[c].tolist(),
            "rejected_ids": data.completions[r].tolist(),
            "ref_chosen_logps": float(logp[c]),
            "ref_rejected_logps": float(logp[r]),
        }
        for c, r in data.pairs
    ]
    trainer = tokenised(trl.DPOTrainer)(
        load_model(base, None, LORA, dtype=setting.dtype, seed=0).peft_model,
        args=trl.DPOConfig(str(folder), beta=BETA, **trl_arguments(pairs_a_batch, way, setting)),
        train_dataset=datasets.Dataset.from_list(rows[:1]),
        processing_class=tokenizer(),
    )
    trainer.precompute_ref_logps = True  # they are given; TRL would compute them once per pair
    parts = partial(np.split, indices_or_sections=range(pairs_a_batch, 1 << 10, pairs_a_batch))
    return trl_step(
        trainer,
        lambda indices: [
            (trainer.data_collator([rows[i] for i in part]), len(part) / len(indices))
            for part in parts(indices)
            if len(part)
        ],
        way.fused,
    )


def trl_sft(
    base: str, data: RoleData, packed: bool, way: Way, setting: Setting, folder: Path
) -> Step:
    """A step of TRL's SFTTrainer, as one padded batch or pack by pack."""
    rows = [
        {
            "input_ids": np.concatenate([p, c]).tolist(),
            "labels": [-100] * len(p) + c.tolist(),
        }
        for p, c in zip(data.prompts, data.completions, strict=True)
    ]
    trainer = tokenised(trl.SFTTrainer)(
        load_model(base, None, LORA, dtype=setting.dtype, seed=0).peft_model,
        args=trl.SFTConfig(str(folder), packing=packed, **trl_arguments(1, way, setting)),
        train_dataset=datasets.Dataset.from_list(rows[:1]),
        processing_class=tokenizer(),
    )

    def batches(indices: np.ndarray) -> list[tuple[Any, float]]:
        mine = [rows[i] for i in indices]
        if not packed:
            return [(trainer.data_collator(mine), 1.0)]
        total = sum(len(data.completions[i]) for i in indices)
        packs = trl.pack_dataset(datasets.Dataset.from_list(mine), TRL_PACK, "bfd")
        collated = [trainer.data_collator([pack]) for pack in packs]
        return [(batch, (batch["labels"] >= 0).sum().item() / total) for batch in collated]

    return trl_step(trainer, batches, way.fused)


def tokenised(trainer: type) -> type:
    """The trainer class for rows of token ids, without its own tokenisation."""
    return type("Tokenised", (trainer,), {"_prepare_dataset": lambda self, dataset, *_: dataset})


def trl_arguments(batch: int, way: Way, setting: Setting) -> dict[str, Any]:
    return {
        "bf16": setting.bf16,
        "gradient_checkpointing": way.method == "full",
        "use_cpu": setting.device == "cpu",
        "report_to": [],
        "per_device_train_batch_size": batch,
        "max_length": None if batch > 1 else TRL_PACK,
        "disable_tqdm": True,
    }


def trl_step(
    trainer: Any, batches_of: Callable[[np.ndarray], list[tuple[Any, float]]], fused: bool
) -> Step:
    """A step over batches, each with its share of the loss (a mean over the step).

    fused: by Liger. TRL's own use_liger_kernel would leave its RoPE in the models that follow.
    """
    if fused:
        exchange_layers(trainer.model.get_base_model())
    if trainer.args.gradient_checkpointing:  # what Trainer.train does before its first step
        options = trainer.args.gradient_checkpointing_kwargs
        trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    trainer.model = trainer.accelerator.prepare_model(trainer.model)  # autocast
    optimizer = adamw(trainer.model)
    trainer.model.train()

    def step(indices: np.ndarray) -> float:
        total = 0.0
        for batch, share in batches_of(indices):
            with trainer.compute_loss_context_manager():
                loss = share * trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
