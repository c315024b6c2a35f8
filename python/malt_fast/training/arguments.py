"""The settings of a stage as transformers' TrainingArguments."""

import os
from pathlib import Path

import torch
import transformers

from malt_fast.config.stages import DPOStageConfig, StageConfig
from malt_fast.utils.errors import MaltError

TRAINER_FIELDS = {  # fields of StageConfig that TrainingArguments has under the same name
    "learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "lr_scheduler_type",
    "weight_decay", "max_grad_norm", "logging_steps", "save_steps", "bf16",
}  # fmt: skip


def training_arguments(
    args: StageConfig | DPOStageConfig, checkpoints: Path, device: str, seed: int
) -> transformers.TrainingArguments:
    """TrainingArguments of a stage, without Trainer's own logging, progress and evaluation.

    device: "auto", "cpu", "cuda" or "cuda:N". Raises MaltError for a device that is not there.
    """
    cpu = _use_cpu(device)
    if not cpu:
        _let_segments_grow()
    out = transformers.TrainingArguments(
        **args.model_dump(include=TRAINER_FIELDS),
        # Trainer's batch is a whole optimiser step, which the packer cuts into micro-batches
        per_device_train_batch_size=args.per_device_train_batch_size
        * args.gradient_accumulation_steps,
        output_dir=str(checkpoints / "staging"),
        use_cpu=cpu,
        seed=seed % 2**32,  # NumPy takes 32 bits
        logging_first_step=True,
        logging_nan_inf_filter=False,  # batch_loss raises for them
        optim="adamw_torch_fused",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        ddp_timeout=4 * 3600,  # s: the others wait while the leader writes the datasets
        dataloader_pin_memory=not cpu,
        report_to="none",  # figures are logged by on_log
        disable_tqdm=True,
        log_level="error",
    )
    out._n_gpu = min(1, out.n_gpu)  # one GPU per process: no DataParallel
    return out


def _let_segments_grow() -> None:
    """Let the allocator lengthen memory that it has, as packs differ in length; unless set already.

    Not through the environment, which vLLM's processes would inherit.
    """
    names = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}
    if not names & os.environ.keys():
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


def _use_cpu(device: str) -> bool:
    if device == "auto":
        return not torch.cuda.is_available()
    if device != "cpu" and not torch.cuda.is_available():
        raise MaltError(f"there is no GPU for model.device = '{device}': use --model.device cpu")
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    return device == "cpu"
