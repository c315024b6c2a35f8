"""One training stage of one role: from its data to a saved adapter."""

import gc
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import safe_globals

from malt_fast.forest.role_data import RoleData
from malt_fast.models.context import window_of
from malt_fast.models.liger import check_liger
from malt_fast.models.loading import load_model_config
from malt_fast.training.adapters import load_model, replace_adapter
from malt_fast.training.arguments import training_arguments
from malt_fast.training.batches import check_data, check_lengths, sampler_of
from malt_fast.training.mismatches import Mismatches, all_steps
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.references import References
from malt_fast.training.stage import Layout, StageSpec
from malt_fast.training.trainer import LOG_STATE, OnLog, OnStart, StageTrainer, checkpoints_in
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import make_folder
from malt_fast.utils.quiet import quiet
from malt_fast.utils.seals import is_damaged, seal_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    adapter: Path
    metrics: dict[str, float]  # the last log line, train_runtime, train_loss and first_loss


def train_stage(
    spec: StageSpec,
    data: RoleData,
    out: Path,
    on_log: OnLog | None = None,
    on_start: OnStart | None = None,
) -> Trained:
    """Train an adapter over the frozen base model and save it to `out`, a PEFT directory.

    A stage that was stopped resumes from its newest checkpoint and ends with the same weights.
    `on_log` gets every log line, with `step` and `max_steps`; `on_start` what the backward pass
    will compute again. Raises MaltError for data that cannot be trained on, an unsuitable model,
    a checkpoint of another number of processes, and a loss that is not finite.
    """
    gc.freeze()  # the collection looks only at what the stage makes
    try:
        return _train(spec, data, out, on_log, on_start)
    finally:
        _free_memory()
        gc.unfreeze()


def _free_memory() -> None:
    """Give back what a stage took: the next one, and vLLM in its own process, need the room.

    Trainer, model and their hooks refer to each other, so that only the collector frees them.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _train(
    spec: StageSpec, data: RoleData, out: Path, on_log: OnLog | None, on_start: OnStart | None
) -> Trained:
    check_data(spec.stage, data)
    make_folder(out.parent)
    checkpoints = out.with_name(out.name + ".checkpoints")
    fingerprint = spec.fingerprint(data)
    with quiet():
        trainer = _make_trainer(spec, data, checkpoints, fingerprint, on_log, on_start)
        references = None
        if spec.stage == "dpo":
            mismatched = len(trainer.packer.data) - len(data)
            file, source = out.with_name("references.npz"), spec.reference_model
            references = References(file, trainer.packer.data, source, mismatched)
            trainer.references = references
        with trainer.args.main_process_first(local=False):
            whole = references is None or not len(references.missing())
            resume = _newest_checkpoint(checkpoints, fingerprint, trainer.note, resumable=whole)
        output = trainer.train(resume_from_checkpoint=resume)
        if trainer.state.global_step < trainer.state.max_steps:
            raise KeyboardInterrupt  # a stop was asked for; a checkpoint holds what was trained
        replace_adapter(trainer.model, out, fingerprint, write=trainer.args.should_save)
        if trainer.args.should_save:
            shutil.rmtree(checkpoints)
        trainer.accelerator.wait_for_everyone()
    return Trained(out, _summary(trainer, output.metrics))


def _make_trainer(
    spec: StageSpec,
    data: RoleData,
    checkpoints: Path,
    fingerprint: str,
    on_log: OnLog | None,
    on_start: OnStart | None,
) -> StageTrainer:
    base_config = load_model_config(spec.base, spec.trust_remote_code)
    longest = check_lengths(data, base_config, spec.args.max_length)
    arguments = training_arguments(spec.args, checkpoints, spec.device, spec.seed)
    if spec.use_liger_kernel:
        check_liger(spec.base, base_config, arguments.device.type)
    model = load_model(
        spec.base,
        spec.init_adapter,
        spec.lora,
        dtype=spec.dtype,
        seed=spec.seed,
        layout=_layout(spec, data, window_of(base_config)),
        four_bit_on=arguments.device if spec.load_in_4bit else None,
        trust_remote_code=spec.trust_remote_code,
    )
    packing = Packing(
        model.layout,
        spec.pack_tokens,
        spec.args.per_device_train_batch_size,
        arguments.device.type,
        arguments.process_index,
        arguments.world_size,
    )
    fits = min(longest, spec.pack_tokens, window_of(base_config) or longest)
    packer = Packer(spec.stage, data, packing, _mismatches(spec, data, arguments, fits))
    note = f"{fingerprint} {model.layout} {arguments.world_size}"  # see _newest_checkpoint
    trainer = StageTrainer(packer, model, spec.args, arguments, on_log, note, on_start)
    trainer.use_liger_kernel = spec.use_liger_kernel
    return trainer


def _mismatches(
    spec: StageSpec, data: RoleData, arguments: TrainingArguments, longest: int
) -> Mismatches | None:
    """What KTO needs; None where a stage does not learn from labelled completions."""
    if spec.stage == "sft" or not len(data.labelled):
        return None
    size = arguments.train_batch_size * arguments.world_size
    sampler = sampler_of(spec.stage, data, size, arguments.seed)
    return Mismatches(data, all_steps(sampler, arguments), longest)


def _layout(spec: StageSpec, data: RoleData, window: int | None) -> Layout:
    """The layout asked for; rows where a path of a tree is longer than the model's window.

    Packs mask by subtree alone; the results are the same.
    """
    longest = max(len(p) + len(c) for p, c in zip(data.prompts, data.completions, strict=True))
    if spec.layout == "rows" or window is None or longest <= window:
        return spec.layout
    log.warning(
        "%s is trained on rows: an output ends at token %d, and '%s' has a window of %d",
        *(spec.role, longest, spec.base, window),
    )
    return "rows"


def _summary(trainer: StageTrainer, metrics: dict[str, float]) -> dict[str, float]:
    lines = [line for line in trainer.state.log_history if "loss" in line]
    run = {name: value for name, value in metrics.items() if name != "total_flos"}
    return run | lines[-1] | {"first_loss": lines[0]["loss"]}


def _newest_checkpoint(
    checkpoints: Path, fingerprint: str, note: str, *, resumable: bool
) -> str | None:
    """The checkpoint to resume from; damaged ones and those of other settings or data are removed.

    resumable: False if reference log-probs are missing, which only the initial weights give. Raises
    MaltError for a checkpoint of the same stage made on another layout or number of processes.
    """
    for folder in reversed(checkpoints_in(checkpoints)):
        whole = not is_damaged(folder) and _holds_plain_states(folder)
        if not whole:
            log.warning("%s is damaged and ignored", folder)
        made = seal_of(folder) or ""
        if whole and resumable and made == note:
            return str(folder)
        if whole and resumable and made.startswith(fingerprint):
            layout, processes = made.split()[1:]
            raise MaltError(
                f"{folder} was made with train.packing {layout} in {processes} processes: resume "
                f"it so, or delete {checkpoints} to train the stage from its beginning"
            )
    shutil.rmtree(checkpoints, ignore_errors=True)
    make_folder(checkpoints)
    return None


def _holds_plain_states(checkpoint: Path) -> bool:
    """Whether the states of log, optimiser, schedule and random numbers load without any code."""
    if not (checkpoint / LOG_STATE).is_file():
        return False
    with safe_globals():  # NumPy's, which Trainer allows for the states of random numbers
        for file in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
            try:
                torch.load(file, map_location="cpu", weights_only=True)
            except Exception:  # torch and zipfile raise errors of many kinds
                return False
    return True
