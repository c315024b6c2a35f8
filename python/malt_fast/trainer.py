"""Train one role: LoRA by SFT on completions, or by DPO on pairs of completions.

    RoleData --Collator--> rows with targets --LogProbModel--> log-probs --losses--> loss

`RoleTrainer` is the loop, a `transformers.Trainer` whose model returns log-probs of target tokens
and nothing else; `train_stage` is one stage, from data to a saved adapter. A batch of pairs
forwards each of its completions once, reference log-probs are computed once per completion before
training, and a loss is divided by the items of the whole optimiser step: accumulation is exact.

Not here: packed prefix trees, evaluation during training, full fine-tuning, resuming in another
number of processes.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from malt_fast.adapters import (
    LogProbModel,
    disable_dropout,
    load_config,
    load_model,
    merge_small_layers,
    replace_adapter,
    save_adapter,
)
from malt_fast.batches import (
    Batch,
    Collator,
    LengthSampler,
    RoleData,
    Stage,
    check_data,
    check_lengths,
    completion_logps,
)
from malt_fast.config import DPOStageConfig, LoraConfig, StageConfig
from malt_fast.errors import MaltError
from malt_fast.kernels import dpo_loss
from malt_fast.losses import dpo_metrics, sft_loss
from malt_fast.quiet import quiet

__all__ = ["RoleData", "RoleTrainer", "Trained", "train_stage"]

OnLog = Callable[[dict[str, float]], None]


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
    lora: LoraConfig,
    args: StageConfig | DPOStageConfig,
    reference: Literal["sft", "base"],
    dtype: str,
    device: str,
    seed: int,
    report_to: list[str],
    logging_dir: Path | None,
    on_log: OnLog | None,
) -> Trained:
    """Train an adapter over the frozen model `base` and leave it in `out`, a PEFT directory.

    Starts from a copy of `init_adapter`, or from a fresh LoRA. `reference` is what DPO compares
    with: the initial adapter, or the bare model. A stage that was stopped goes on from its newest
    checkpoint, to the weights it would have had. `on_log` gets each log line, with `step` and
    `max_steps`; without `logging_dir` there is no TensorBoard. Raises MaltError for data that
    cannot be trained on, an unsuitable model, and a loss that is not finite.
    """
    check_data(stage, data)
    _check_loss(args)
    with quiet(), _tensorboard_dir(logging_dir):
        check_lengths(data, load_config(base).get_text_config(), args.max_length)
        model = load_model(base, init_adapter, lora, dtype=dtype, seed=seed)
        collator, checkpoints = Collator(stage, data), out.with_name(out.name + ".checkpoints")
        settings = (stage, base, init_adapter, lora, args, reference, dtype, seed)
        resume = _newest_checkpoint(checkpoints, _fingerprint(data, settings))
        arguments = _arguments(args, checkpoints, device, seed, report_to, logging_dir)
        trainer = RoleTrainer(stage, model, collator, args, arguments, on_log)
        if stage == "dpo":
            collator.ref_logp = trainer.reference_logps(reference)
        output = trainer.train(resume_from_checkpoint=resume)
        if trainer.is_world_process_zero():
            replace_adapter(model, out)
            shutil.rmtree(checkpoints)
    return Trained(out, _summary(trainer, output.metrics))


class RoleTrainer(transformers.Trainer):
    """The loop. Checkpoints hold the adapter and what resuming needs, and appear only complete."""

    def __init__(
        self,
        stage: Stage,
        model: LogProbModel,
        collator: Collator,
        settings: StageConfig | DPOStageConfig,
        args: transformers.TrainingArguments,
        on_log: OnLog | None = None,
    ) -> None:
        if stage == "dpo":
            disable_dropout(model)  # as TRL: the policy equals its reference at step 0
        if not settings.bf16:
            merge_small_layers(model)
        if settings.gradient_checkpointing:
            model.peft_model.gradient_checkpointing_enable({"use_reentrant": False})
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=range(len(collator)),
            callbacks=[_Lines(on_log)],
        )
        self.remove_callback(transformers.PrinterCallback)
        self.stage = stage
        self.settings = settings
        self._sums: dict[str, Tensor] = {}  # per-pair metrics since the last log line
        self._count = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        items = inputs["items"] if num_items_in_batch is None else num_items_in_batch
        self.state.num_input_tokens_seen += inputs["num_tokens"]
        token_logp = model(inputs["input_ids"], inputs["rows"], inputs["targets"])
        if self.stage == "sft":
            loss = sft_loss(token_logp, items[0])
        else:
            loss = self._dpo_loss(token_logp, inputs, items)
        if not torch.isfinite(loss):
            raise MaltError(
                f"the {self.stage} loss became {loss.item()} at step {self.state.global_step}: "
                "lower the learning rate, or train in float32"
            )
        return loss * self.accelerator.num_processes  # gradients are averaged over processes

    def _dpo_loss(self, token_logp: Tensor, inputs: Batch, items: Tensor) -> Tensor:
        assert isinstance(self.settings, DPOStageConfig)
        logp, pairs = completion_logps(token_logp, inputs), inputs["pairs"]
        out = dpo_loss(
            logp,
            inputs["ref_logp"],
            pairs,
            inputs["lengths"],
            beta=self.settings.beta,
            loss_type=self.settings.loss_type,
            label_smoothing=self.settings.label_smoothing,
            rpo_alpha=self.settings.rpo_alpha,
            mean_chosen_length=items[1] / items[0],
            check=False,
        )
        for name, values in dpo_metrics(out, logp, pairs).items():
            self._sums[name] = self._sums.get(name, 0.0) + values.sum()
        self._count += len(pairs)
        return out.losses.sum() / items[0]

    @torch.no_grad()
    def reference_logps(self, reference: Literal["sft", "base"]) -> Tensor:
        """[completions] on the CPU: log-probs under the weights before training, NaN outside pairs.

        Layout, precision and code are training's, so step 0 has margin 0; draws no random number.
        """
        collator, model = self.data_collator, self.model
        used = np.unique(collator.data.pairs)
        used = used[np.argsort([len(collator.rows[i]) for i in used], kind="stable")]
        ref_logp = torch.full((len(collator.rows),), torch.nan)
        size = 2 * self.args.per_device_train_batch_size
        bare = model.peft_model.disable_adapter() if reference == "base" else nullcontext()
        model.eval()
        with bare, self.accelerator.autocast():
            for start in range(0, len(used), size):
                part = used[start : start + size]
                batch = self._prepare_inputs(collator.layout(part))
                token_logp = model(batch["input_ids"], batch["rows"], batch["targets"])
                ref_logp[torch.from_numpy(part)] = completion_logps(token_logp, batch).cpu()
        return ref_logp

    # What follows are hooks that Trainer calls.

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: Any) -> Tensor | None:
        """`items` of the whole optimiser step, over micro-batches and processes."""
        if not batch_samples:
            return None
        items = torch.stack([batch["items"] for batch in batch_samples]).sum(0)
        return self.accelerator.reduce(items.to(device), "sum")

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthSampler:
        lengths, groups = self.data_collator.sizes()
        return LengthSampler(lengths, groups, self.args.train_batch_size, self.args.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._count:
            count = torch.tensor(float(self._count), device=self.args.device)
            sums = self.accelerator.reduce({**self._sums, "count": count}, "sum")
            total = sums.pop("count").item()
            logs |= {name: value.item() / total for name, value in sums.items()}
            self._sums, self._count = {}, 0
        logs["num_tokens"] = float(self.state.num_input_tokens_seen)
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_adapter(self.model, Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer fills a staging folder (`output_dir`); the complete one replaces the older."""
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            staging, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
            older = list(staging.parent.glob("checkpoint-*"))
            (staging / name).replace(staging.parent / name)
            for folder in older:
                shutil.rmtree(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors")
        peft.set_peft_model_state_dict(self.model.peft_model, weights)


class _Lines(transformers.TrainerCallback):
    """Hands every log line to the caller, the last step's too; the end needs no checkpoint."""

    def __init__(self, on_log: OnLog | None) -> None:
        self.hand_over = on_log

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.hand_over is not None and logs and state.is_world_process_zero:
            self.hand_over({**logs, "step": state.global_step, "max_steps": state.max_steps})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log, control.should_save = True, False


def _summary(trainer: RoleTrainer, metrics: dict[str, float]) -> dict[str, float]:
    """Run time and mean loss, the last log line, and the loss before any update."""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    run = {name: value for name, value in metrics.items() if name != "total_flos"}
    return run | lines[-1] | {"first_loss": lines[0]["loss"]}


# ---- settings ----


def _check_loss(args: StageConfig | DPOStageConfig) -> None:
    if isinstance(args, DPOStageConfig) and args.label_smoothing and args.loss_type != "sigmoid":
        raise MaltError(
            f"label_smoothing has no meaning for loss_type {args.loss_type}: "
            "set it to 0, or take loss_type sigmoid"
        )


TRAINER_FIELDS = {  # of a stage's config, passed on as they are
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "warmup_steps", "lr_scheduler_type", "weight_decay",
    "max_grad_norm", "logging_steps", "save_steps", "bf16",
}  # fmt: skip


def _arguments(
    args: StageConfig | DPOStageConfig,
    checkpoints: Path,
    device: str,
    seed: int,
    report_to: list[str],
    logging_dir: Path | None,
) -> transformers.TrainingArguments:
    """The stage's settings, and quiet, lean choices for the rest."""
    cpu = _use_cpu(device)
    out = transformers.TrainingArguments(
        **args.model_dump(include=TRAINER_FIELDS),
        output_dir=str(checkpoints / "staging"),
        use_cpu=cpu,
        seed=seed % 2**32,  # NumPy's bound
        logging_first_step=True,
        logging_nan_inf_filter=False,  # compute_loss refuses them
        optim="adamw_torch_fused",
        remove_unused_columns=False,
        dataloader_pin_memory=not cpu,
        report_to=[name for name in report_to if name != "tensorboard" or logging_dir is not None],
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


@contextmanager
def _tensorboard_dir(folder: Path | None) -> Iterator[None]:
    """transformers 5 takes TensorBoard's folder from the environment only."""
    name = "TENSORBOARD_LOGGING_DIR"
    before = os.environ.get(name)
    if folder is not None:
        os.environ[name] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


# ---- resume ----


def _fingerprint(data: RoleData, settings: tuple[object, ...]) -> str:
    """Hash of all that decides the result of a stage."""
    digest = hashlib.blake2b(repr((settings, len(data.prompts))).encode(), digest_size=16)
    for array in (*data.prompts, *data.completions, data.pairs):
        digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _newest_checkpoint(checkpoints: Path, fingerprint: str) -> str | None:
    """The checkpoint to go on from; those of other settings or data are removed."""
    mark = checkpoints / "fingerprint"
    if mark.is_file() and mark.read_text() == fingerprint:
        found = checkpoints.glob("checkpoint-*")
        newest = max(found, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
        return None if newest is None else str(newest)
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    mark.write_text(fingerprint)
    return None
