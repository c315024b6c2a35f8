"""A stage's settings as transformers' TrainingArguments."""

from pathlib import Path

import torch
import transformers

from malt_fast.config.schema import DPOStageConfig, StageConfig
from malt_fast.utils.errors import MaltError

TRAINER_FIELDS = {  # of a stage's config, passed on as they are
    "learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "lr_scheduler_type",
    "weight_decay", "max_grad_norm", "logging_steps", "save_steps", "bf16",
}  # fmt: skip


def training_arguments(
    args: StageConfig | DPOStageConfig,
    checkpoints: Path,
    device: str,
    seed: int,
) -> transformers.TrainingArguments:
    """The stage's settings, and quiet, lean choices for the rest."""
    cpu = _use_cpu(device)
    out = transformers.TrainingArguments(
        **args.model_dump(include=TRAINER_FIELDS),
        # what Trainer takes for a batch is a whole step, which training_step cuts
        per_device_train_batch_size=args.per_device_train_batch_size
        * args.gradient_accumulation_steps,
        output_dir=str(checkpoints / "staging"),
        use_cpu=cpu,
        seed=seed % 2**32,  # NumPy's bound
        logging_first_step=True,
        logging_nan_inf_filter=False,  # compute_loss refuses them
        optim="adamw_torch_fused",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        ddp_timeout=4 * 3600,  # s: others may wait while the first process writes the data
        dataloader_pin_memory=not cpu,
        report_to="none",  # on_log hands figures on
        disable_tqdm=True,
        log_level="error",
    )
    out._n_gpu = min(1, out.n_gpu)  # one process drives one GPU: no DataParallel
    return out


def _use_cpu(device: str) -> bool:
    if device == "auto":
        return not torch.cuda.is_available()
    if device != "cpu" and not torch.cuda.is_available():
        raise MaltError(f"device {device} is not available here: use --model.device cpu")
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    return device == "cpu"
