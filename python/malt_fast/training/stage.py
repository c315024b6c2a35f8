"""One stage, from data to a saved adapter."""

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from malt_fast.config.schema import DPOStageConfig, LoraConfig, StageConfig
from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.models.identity import adapter_identity, model_identity
from malt_fast.models.loading import load_config
from malt_fast.training.adapters import load_model, replace_adapter
from malt_fast.training.arguments import check_loss, training_arguments
from malt_fast.training.batches import check_data, check_lengths
from malt_fast.training.packing import Layout, Packer, Packing
from malt_fast.training.references import References
from malt_fast.training.trainer import OnLog, StageTrainer
from malt_fast.utils.files import make_folder
from malt_fast.utils.quiet import quiet
from malt_fast.utils.seals import is_damaged, seal_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    adapter: Path
    metrics: dict[str, float]


def train_stage(
    stage: Stage,
    data: RoleData,
    *,
    base: str,
    init_adapter: Path | None,
    out: Path,
    fingerprint: str,
    lora: LoraConfig,
    args: StageConfig | DPOStageConfig,
    reference: Literal["sft", "base"],
    layout: Layout,
    pack_tokens: int,
    dtype: str,
    load_in_4bit: bool,
    device: str,
    seed: int,
    on_log: OnLog | None,
    trust_remote_code: bool = False,
) -> Trained:
    """Train an adapter over the frozen model `base` and leave it in `out`, a PEFT directory.

    Starts from a copy of `init_adapter`, or from a fresh LoRA. `reference` is what DPO compares
    with: the initial adapter, or the bare model. `fingerprint`: of `stage_fingerprint`.
    `layout` and `pack_tokens` say how steps are cut into batches (packing.py). A stage that was
    stopped goes on from its newest checkpoint, to the weights it would have had. `on_log` gets each
    log line, with `step` and `max_steps`. Raises MaltError for data that cannot be trained on, an
    unsuitable model, and a loss that is not finite.
    """
    check_data(stage, data)
    check_loss(args)
    with quiet():
        base_config = load_config(base, trust_remote_code).get_text_config()
        check_lengths(data, base_config, args.max_length)
        checkpoints = out.with_name(out.name + ".checkpoints")
        arguments = training_arguments(args, checkpoints, device, seed)
        packing = Packing(
            layout,
            pack_tokens,
            args.per_device_train_batch_size,
            arguments.device.type,
            arguments.process_index,
            arguments.world_size,
        )
        packer = Packer(stage, data, packing)
        model = load_model(
            base,
            init_adapter,
            lora,
            dtype=dtype,
            seed=seed,
            layout=layout,
            four_bit_on=arguments.device if load_in_4bit else None,
            trust_remote_code=trust_remote_code,
        )
        note = f"{fingerprint} {layout} {arguments.world_size}"
        trainer = StageTrainer(packer, model, args, arguments, on_log, note)
        whole = True
        if stage == "dpo":
            adapter, precision = init_adapter if reference == "sft" else None, (dtype, args.bf16)
            source = (base, adapter, (*precision, load_in_4bit))
            trainer.references = References(out.with_name("references.npz"), data, source)
            whole = len(trainer.references.missing()) == 0
        with arguments.main_process_first(local=False):
            resume = _newest_checkpoint(checkpoints, note, resumable=whole)
        output = trainer.train(resume_from_checkpoint=resume)
        if trainer.state.global_step < trainer.state.max_steps:
            raise KeyboardInterrupt  # as was asked; a checkpoint holds what was trained
        replace_adapter(model, out, fingerprint, write=arguments.should_save)
        if arguments.should_save:
            shutil.rmtree(checkpoints)
        trainer.accelerator.wait_for_everyone()
    return Trained(out, _summary(trainer, output.metrics))


def _summary(trainer: StageTrainer, metrics: dict[str, float]) -> dict[str, float]:
    """Run time and mean loss, the last log line, and the loss before any update."""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    run = {name: value for name, value in metrics.items() if name != "total_flos"}
    return run | lines[-1] | {"first_loss": lines[0]["loss"]}


def stage_fingerprint(
    stage: Stage,
    data: RoleData,
    *,
    base: str,
    init_adapter: Path | None,
    lora: LoraConfig,
    args: StageConfig | DPOStageConfig,
    reference: Literal["sft", "base"],
    dtype: str,
    load_in_4bit: bool,
    seed: int,
) -> str:
    """Of all that decides the result of a stage; not of how it is shared out or logged."""
    weights = (model_identity(base), adapter_identity(init_adapter), lora, dtype, load_in_4bit)
    method = args.model_dump(exclude={"logging_steps", "save_steps", "gradient_checkpointing"})
    against = reference if stage == "dpo" else None
    settings = (stage, weights, method, against, seed, len(data.prompts))
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    arrays: list[npt.NDArray[Any]] = [*data.prompts, *data.completions, data.pairs, data.trees]
    for array in arrays:
        digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def is_done(out: Path, fingerprint: str) -> bool:
    """Whether a stage of this fingerprint has left its adapter there, undamaged."""
    return seal_of(out) == fingerprint


def _newest_checkpoint(checkpoints: Path, wanted: str, *, resumable: bool) -> str | None:
    """The checkpoint to go on from; those of other settings or data are removed, and damaged ones.

    Nor is there a way on without reference log-probs: only the first weights give them.
    """
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda f: int(f.name.rpartition("-")[2]))
    for folder in reversed(found):
        if is_damaged(folder):
            log.warning("%s is damaged: it is left out", folder)
        if resumable and seal_of(folder) == wanted:
            return str(folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    make_folder(checkpoints)
    return None
