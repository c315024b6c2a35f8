"""One stage of training, from data to a saved adapter: what it is made from, and how it is run."""

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from malt_fast.config.schema import Config, DPOStageConfig, LoraConfig, StageConfig
from malt_fast.engines import Policy
from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.models.identity import adapter_identity, model_identity
from malt_fast.models.loading import load_config
from malt_fast.training.adapters import load_model, replace_adapter
from malt_fast.training.arguments import training_arguments
from malt_fast.training.batches import check_data, check_lengths
from malt_fast.training.packing import Layout, Packer, Packing
from malt_fast.training.references import References, Source
from malt_fast.training.trainer import OnLog, StageTrainer
from malt_fast.utils.files import make_folder
from malt_fast.utils.quiet import quiet
from malt_fast.utils.seals import is_damaged, seal_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageSpec:
    """One stage of one role: everything that decides the trained weights, except the data."""

    stage: Stage
    role: str
    base: str  # hub id or directory of the frozen model
    init_adapter: Path | None  # the adapter to start from; None: a fresh LoRA
    lora: LoraConfig
    args: StageConfig | DPOStageConfig
    reference: Literal["sft", "base"]  # DPO compares with init_adapter, or with the bare model
    dtype: str
    load_in_4bit: bool
    seed: int
    # How the work is done, which changes no result and is not part of the fingerprint:
    layout: Layout = "trees"
    pack_tokens: int = 16384
    device: str = "auto"
    trust_remote_code: bool = False

    @classmethod
    def of(cls, config: Config, role: str, stage: Stage, start: Policy) -> Self:
        """The stage as a run's settings have it, from the policy `start`."""
        model, train = config.model, config.train
        return cls(
            stage=stage,
            role=role,
            base=start.base,
            init_adapter=None if start.adapter is None else Path(start.adapter),
            lora=config.lora,
            args=getattr(train, stage).for_role(role),
            reference=train.reference,
            dtype=model.dtype,
            load_in_4bit=train.load_in_4bit,
            seed=config.seed,
            layout=train.packing,
            pack_tokens=train.pack_tokens,
            device=model.device,
            trust_remote_code=model.trust_remote_code,
        )

    def fingerprint(self, data: RoleData) -> str:
        """Hash of everything the trained weights depend on."""
        adapter = adapter_identity(self.init_adapter)
        weights = (model_identity(self.base), adapter, self.lora, self.dtype, self.load_in_4bit)
        unseen = {"logging_steps", "save_steps", "gradient_checkpointing"}
        method = self.args.model_dump(exclude=unseen)
        reference = self.reference if self.stage == "dpo" else None
        settings = (self.stage, weights, method, reference, self.seed, len(data.prompts))
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        arrays: list[npt.NDArray[Any]] = [*data.prompts, *data.completions, data.pairs, data.trees]
        for array in arrays:
            digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def is_done(self, data: RoleData, out: Path) -> bool:
        """Whether `out` holds the undamaged adapter that this stage makes of `data`."""
        return seal_of(out) == self.fingerprint(data)

    @property
    def reference_model(self) -> Source:
        """The model whose log-probs DPO compares with."""
        adapter = self.init_adapter if self.reference == "sft" else None
        return self.base, adapter, (self.dtype, self.args.bf16, self.load_in_4bit)


@dataclass(frozen=True)
class Trained:
    adapter: Path
    metrics: dict[str, float]  # the last log line, train_runtime, train_loss and first_loss


def train_stage(spec: StageSpec, data: RoleData, out: Path, on_log: OnLog | None = None) -> Trained:
    """Train an adapter over the frozen base model and save it to `out`, a PEFT directory.

    A stage that was stopped resumes from its newest checkpoint and ends with the same weights.
    `on_log` gets every log line, with `step` and `max_steps`. Raises MaltError for data that cannot
    be trained on, an unsuitable model, and a loss that is not finite.
    """
    check_data(spec.stage, data)
    make_folder(out.parent)
    checkpoints = out.with_name(out.name + ".checkpoints")
    fingerprint = spec.fingerprint(data)
    with quiet():
        trainer = _make_trainer(spec, data, checkpoints, fingerprint, on_log)
        whole = True
        if spec.stage == "dpo":
            file = out.with_name("references.npz")
            trainer.references = References(file, data, spec.reference_model)
            whole = len(trainer.references.missing()) == 0
        with trainer.args.main_process_first(local=False):
            resume = _newest_checkpoint(checkpoints, trainer.note, resumable=whole)
        output = trainer.train(resume_from_checkpoint=resume)
        if trainer.state.global_step < trainer.state.max_steps:
            raise KeyboardInterrupt  # a stop was asked for; a checkpoint holds what was trained
        replace_adapter(trainer.model, out, fingerprint, write=trainer.args.should_save)
        if trainer.args.should_save:
            shutil.rmtree(checkpoints)
        trainer.accelerator.wait_for_everyone()
    return Trained(out, _summary(trainer, output.metrics))


def _make_trainer(
    spec: StageSpec, data: RoleData, checkpoints: Path, fingerprint: str, on_log: OnLog | None
) -> StageTrainer:
    base_config = load_config(spec.base, spec.trust_remote_code).get_text_config()
    check_lengths(data, base_config, spec.args.max_length)
    arguments = training_arguments(spec.args, checkpoints, spec.device, spec.seed)
    packing = Packing(
        spec.layout,
        spec.pack_tokens,
        spec.args.per_device_train_batch_size,
        arguments.device.type,
        arguments.process_index,
        arguments.world_size,
    )
    packer = Packer(spec.stage, data, packing)
    model = load_model(
        spec.base,
        spec.init_adapter,
        spec.lora,
        dtype=spec.dtype,
        seed=spec.seed,
        layout=spec.layout,
        four_bit_on=arguments.device if spec.load_in_4bit else None,
        trust_remote_code=spec.trust_remote_code,
    )
    note = f"{fingerprint} {spec.layout} {arguments.world_size}"
    return StageTrainer(packer, model, spec.args, arguments, on_log, note)


def _summary(trainer: StageTrainer, metrics: dict[str, float]) -> dict[str, float]:
    lines = [line for line in trainer.state.log_history if "loss" in line]
    run = {name: value for name, value in metrics.items() if name != "total_flos"}
    return run | lines[-1] | {"first_loss": lines[0]["loss"]}


def _newest_checkpoint(checkpoints: Path, note: str, *, resumable: bool) -> str | None:
    """The checkpoint to resume from; damaged ones and those of other settings or data are removed.

    resumable: False if reference log-probs are missing, which only the initial weights give.
    """
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda f: int(f.name.rpartition("-")[2]))
    for folder in reversed(found):
        if is_damaged(folder):
            log.warning("%s is damaged and ignored", folder)
        if resumable and seal_of(folder) == note:
            return str(folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    make_folder(checkpoints)
    return None
