"""The training loop: LoRA by SFT on completions, or by DPO and KTO on pairs and labelled ones.

    RoleData --Packer--> steps of batches --LogProbModel--> log-probs --losses--> loss

`StageTrainer` is a `transformers.Trainer` whose model returns log-probs of target tokens and
nothing else. A batch forwards each of its completions once, however many pairs share it, and
reference log-probs are computed once per completion (references.py). A thread lays out the next
step while one runs. KTO's KL divergence is estimated once per step, before its batches
(mismatches.py).

Under `accelerate launch` or `torchrun` all processes share every step, with whole copies of the
model (DDP) or shards of it (FSDP2).

Not supported: evaluation during training, full fine-tuning, resuming with another number of
processes.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from malt_fast.config.stages import DPOStageConfig, StageConfig
from malt_fast.forest.role_data import NO_PAIRS, Ints
from malt_fast.models.liger import apply_liger
from malt_fast.models.saving import saving
from malt_fast.training.activations import precision_of, shape_of, training_bytes
from malt_fast.training.adapters import (
    LogProbModel,
    disable_dropout,
    load_adapter,
    save_adapter,
    speed_up_lora,
)
from malt_fast.training.batches import TreeSampler, sampler_of
from malt_fast.training.checkpointing import (
    checkpoint,
    first_that_fits,
    free_memory,
)
from malt_fast.training.losses import Metrics, metric_names, preference_loss, sft_loss
from malt_fast.training.packing import Batch, Items, Packer, Step, completion_logps
from malt_fast.training.references import References
from malt_fast.training.stage import METHODS, Choice
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import sync_folder, sync_tree
from malt_fast.utils.seals import seal

LOG_STATE = "log.pt"  # in a checkpoint
REFERENCES = 4096  # completions after which reference log-probs are saved
OnLog = Callable[[dict[str, float]], None]
OnStart = Callable[[Choice], None]


class StageTrainer(transformers.Trainer):
    """The loop. A checkpoint holds the adapter and the state to resume from, and appears whole."""

    def __init__(
        self,
        packer: Packer,
        model: LogProbModel,
        settings: StageConfig | DPOStageConfig,
        args: transformers.TrainingArguments,
        on_log: OnLog | None = None,
        note: str = "",
        on_start: OnStart | None = None,
    ) -> None:
        """note: written into the seals of checkpoints, which are resumed from only if it agrees.

        on_start: called with what the backward pass will compute again.
        """
        if packer.stage == "dpo":
            disable_dropout(model)  # as TRL: the policy equals its reference at step 0
        speed_up_lora(model)
        super().__init__(
            model=model,
            args=args,
            train_dataset=range(len(packer)),
            callbacks=[_Lines(on_log), _Begin(self)],
        )
        self.remove_callback(transformers.PrinterCallback)
        if self.is_fsdp_enabled:
            _own_precision(self.accelerator.state.fsdp_plugin)
        self.packer = packer
        self.settings = settings
        self.note = note
        self.on_start = on_start
        self.use_liger_kernel = False
        self.references: References | None = None  # DPO: set before training
        self._ref_logp = torch.empty(0)  # [completions] on the device
        self._thread = ThreadPoolExecutor(1)  # lays out the next step
        self._sums: dict[str, Tensor] = {}  # sum and count of metrics since the last log line
        self._log_state: dict[str, Any] = {}  # of the checkpoint that is resumed from
        pairs, labelled = len(packer.data.pairs) > 0, len(packer.data.labelled) > 0
        self._metrics = metric_names(pairs=pairs, labelled=labelled)

    def training_step(
        self, model: nn.Module, inputs: "Future[Step]", num_items_in_batch: Any = None
    ) -> Tensor:
        if not model.training:
            model.train()  # visits every module
        return self.step_loss(model, inputs.result())

    def step_loss(self, model: nn.Module, step: Step) -> Tensor:
        """A whole optimiser step; processes exchange gradients in its last batch only."""
        losses, kl = torch.zeros(len(step.batches), device=self.args.device), self._kl(model, step)
        for i, batch in enumerate(step.batches):
            last = i == len(step.batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = self._batch_loss(model, batch.to(self.args.device), step.items, kl)
                self.accelerator.backward(loss)
            losses[i] = loss.detach()
        if not losses.isfinite().all():  # once a step, as it waits for the device
            self._refuse(losses, step)
        self.state.num_input_tokens_seen += step.num_tokens
        return losses.sum()

    @torch.no_grad()
    def _kl(self, model: nn.Module, step: Step) -> Tensor:
        """The mean log-ratio of policy and reference over a step's mismatches, at least 0 as TRL's.

        0 where a step has none.
        """
        total = torch.zeros((), device=self.args.device)
        for batch in step.mismatched:
            batch = batch.to(self.args.device)
            with self.compute_loss_context_manager():
                logp = completion_logps(model(batch), batch)
            total += (logp - self._ref_logp[batch.completions]).sum() * batch.counts
        if not step.mismatches:
            return total
        kl = (self.accelerator.reduce(total, "sum") / step.mismatches).clamp(min=0)
        self._add({"kl": (kl, torch.ones_like(kl))}, counts=True)
        return kl

    def _batch_loss(self, model: nn.Module, batch: Batch, items: Items, kl: Tensor) -> Tensor:
        """The batch's share of the step's loss, a scalar.

        It is multiplied by the number of processes, since gradients are averaged over them.
        """
        token_logp = model(batch)
        if self.packer.stage == "sft":
            loss = sft_loss(token_logp, items.targets)
        else:
            assert isinstance(self.settings, DPOStageConfig)
            logp = completion_logps(token_logp, batch)
            ref_logp = self._ref_logp[batch.completions]
            loss, metrics = preference_loss(logp, ref_logp, kl, batch, items, self.settings)
            self._add(metrics, counts=batch.counts)
        return loss * self.accelerator.num_processes * batch.counts

    def _add(self, metrics: Metrics, *, counts: bool) -> None:
        """Add to the sums of the log line; every process has all of them, to be exchanged."""
        if not self._sums:
            self._sums = {name: torch.zeros(2, device=self.args.device) for name in self._metrics}
        for name, (values, which) in metrics.items():
            if name in self._sums:
                both = torch.stack([(values * which).sum(), which.sum()])
                self._sums[name] += both * counts

    def _refuse(self, losses: Tensor, step: Step) -> None:
        """Write the nodes of a batch whose loss is not finite to a file, and raise MaltError."""
        path = Path(self.args.output_dir).parent / "not-finite.json"
        loss, batch = next(
            (loss, batch)
            for loss, batch in zip(losses, step.batches, strict=True)
            if not loss.isfinite()
        )
        nodes = self.packer.data.nodes[batch.completions.cpu()].tolist()
        path.write_text(json.dumps({"step": self.state.global_step, "nodes": nodes}) + "\n")
        raise MaltError(
            f"the {self.packer.stage} loss became {loss.item()} at step {self.state.global_step} "
            f"(its nodes are in {path}): lower the learning rate, or train in float32"
        )

    def fuse_layers(self) -> None:
        """Exchange layers of the model for Liger's."""
        model = self.accelerator.unwrap_model(self.model).eval()
        batch = self.packer([0]).batches[0].to(self.args.device)
        with self.accelerator.autocast():
            apply_liger(model.peft_model.get_base_model(), lambda: model(batch))
        model.fused = True

    def set_checkpointing(self) -> None:
        """Choose what the backward pass computes again, the same in all processes."""
        model, device = self.accelerator.unwrap_model(self.model), self.args.device
        asked, tokens = self.settings.gradient_checkpointing, self._longest_batch()
        shape, precision = shape_of(model.peft_model), precision_of(model, self.settings.bf16)
        sizes = training_bytes(shape, precision, tokens, gathered=self.is_fsdp_enabled)
        free = free_memory(device)
        method = first_that_fits(sizes, free) if asked == "auto" else asked
        level = torch.tensor([METHODS.index(method)], device=device)
        method = METHODS[int(self.accelerator.gather(level).max())]
        batch = self.packer([0]).batches[0].to(device)
        with self.accelerator.autocast():
            method = checkpoint(model, method, lambda: model(batch), may_change=asked == "auto")
        if self.on_start is not None and self.is_world_process_zero():
            self.on_start(Choice(method, tokens, sizes, free))

    def _longest_batch(self) -> int:
        """Tokens of the largest batch of the first epoch, with padding."""
        size, order = self._step_size, list(self._sampler())
        if self.args.max_steps > 0:
            order = order[: self.args.max_steps * size]
        return max(self.packer.longest(order[i : i + size]) for i in range(0, len(order), size))

    @property
    def _step_size(self) -> int:
        return int(self.args.train_batch_size * self.args.world_size)

    def _sampler(self) -> TreeSampler:
        return sampler_of(self.packer.stage, self.packer.data, self._step_size, self.args.seed)

    def set_references(self, model: nn.Module) -> None:
        """Load the reference log-probs of all completions, and compute the missing ones.

        With the precision and the code of training, so that margins are 0 at step 0. Draws no
        random number.
        """
        references = self.references
        assert references is not None
        for begin in range(0, len(references.used), REFERENCES):  # the same parts when resumed
            some = references.used[begin : begin + REFERENCES]
            missing = np.intersect1d(some, references.missing())
            if len(missing):
                references.add(missing, self._reference_logps(model, missing, references.bare))
                if self.is_world_process_zero():
                    references.save()
        self._ref_logp = torch.from_numpy(references.logp).to(self.args.device)

    @torch.no_grad()
    def _reference_logps(self, model: nn.Module, completions: Ints, bare_model: bool) -> Any:
        out = torch.zeros(len(self.packer.data), device=self.args.device)
        peft_model = self.accelerator.unwrap_model(model).peft_model
        bare = peft_model.disable_adapter() if bare_model else nullcontext()
        model.eval()
        with bare, self.accelerator.autocast():
            for batch in self.packer.cut(completions, NO_PAIRS)[0]:
                batch = batch.to(self.args.device)
                logp = completion_logps(model(batch), batch)
                if batch.counts:
                    out[batch.completions] = logp
                if self.args.world_size == 1:
                    interrupt.check()
        return self.accelerator.reduce(out, "sum").cpu().numpy()[completions]

    # Hooks that Trainer calls.

    def get_train_dataloader(self) -> Any:
        """Futures of steps. Every process gets all indices and takes its share of the batches."""
        loader = torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self._step_size,
            sampler=self._sampler(),
            collate_fn=lambda indices: self._thread.submit(self.packer, indices),
        )
        return prepare_data_loader(loader, num_processes=1, process_index=0, put_on_device=False)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> None:
        return None  # a Step has its own

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # Trainer would look for input_ids in a Future

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._sums:
            sums = self.accelerator.reduce(self._sums, "sum")
            found = {name: both.tolist() for name, both in sums.items()}
            logs |= {name: total / count for name, (total, count) in found.items() if count}
            if {"rewards/chosen", "rewards/rejected"} <= logs.keys():
                logs["rewards/margins"] = logs["rewards/chosen"] - logs["rewards/rejected"]
            self._sums = {}
        logs["num_tokens"] = float(self.state.num_input_tokens_seen)
        super().log(logs, start_time)

    def restore_log(self) -> None:
        """Go on with the sums of the next log line, and of the mean loss, where a checkpoint was.

        transformers begins them anew.
        """
        if not self._log_state:
            return
        state, first = self._log_state, self.is_world_process_zero()
        self._tr_loss += state["loss"]
        self._total_loss_scalar = state["total"]
        self._globalstep_last_logged = state["logged"]
        self._sums = {
            name: torch.tensor(both, device=self.args.device) * first
            for name, both in state["sums"].items()
        }

    def _log_so_far(self) -> dict[str, Any]:
        """What `restore_log` reads, over all processes."""
        sums = self.accelerator.reduce(self._sums, "sum") if self._sums else {}
        return {
            "loss": self.accelerator.gather(self._tr_loss).mean().item(),
            "total": self._total_loss_scalar,
            "logged": self._globalstep_last_logged,
            "sums": {name: both.tolist() for name, both in sums.items()},
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = Path(output_dir or self.args.output_dir)
        save_adapter(self.model, folder, write=self.args.should_save)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer writes into `output_dir`, a staging folder; the result replaces the older one."""
        with saving(Path(self.args.output_dir).parent):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        log_state = self._log_so_far()
        if self.args.should_save:
            staging, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
            older = checkpoints_in(staging.parent)
            torch.save(log_state, staging / name / LOG_STATE)
            seal(staging / name, self.note, [file.name for file in (staging / name).iterdir()])
            sync_tree(staging / name)
            (staging / name).replace(staging.parent / name)
            sync_folder(staging.parent)
            for folder in older:
                shutil.rmtree(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_adapter(self.model, Path(resume_from_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The whole optimiser state of the adapter, however the model is sharded."""
        state = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=WHOLE)
        if self.args.should_save:
            torch.save(state, Path(output_dir, "optimizer.pt"))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler.pt"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state, schedule, self._log_state = (
            torch.load(Path(checkpoint, name), map_location="cpu", weights_only=True)
            for name in ("optimizer.pt", "scheduler.pt", LOG_STATE)
        )
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=WHOLE)
        self.lr_scheduler.load_state_dict(schedule)


WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def _own_precision(plugin: Any) -> None:
    """Keep FSDP from casting: accelerate would round log-probs and gradients to bfloat16."""
    if plugin.fsdp_version != 2:
        raise MaltError("FSDP version 1 is not supported: set fsdp_config.fsdp_version to 2")
    plugin.mixed_precision_policy = MixedPrecisionPolicy()


class _Begin(transformers.TrainerCallback):
    """Exchanges layers, chooses checkpointing, sets reference log-probs, and resumes the log.

    All with the prepared (sharded) model.
    """

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.use_liger_kernel:
            self.trainer.fuse_layers()
        self.trainer.set_checkpointing()
        if self.trainer.references is not None:
            self.trainer.set_references(self.trainer.model_wrapped)
        self.trainer.restore_log()


class _Lines(transformers.TrainerCallback):
    """Passes log lines to the caller, that of the last step too, and stops when asked to."""

    def __init__(self, on_log: OnLog | None) -> None:
        self.pass_on = on_log

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.pass_on is not None and logs and state.is_world_process_zero:
            self.pass_on({**logs, "step": state.global_step, "max_steps": state.max_steps})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log, control.should_save = True, False  # the adapter is saved instead
        elif _stop_asked(args):
            control.should_save = control.should_training_stop = True


def _stop_asked(args: transformers.TrainingArguments) -> bool:
    """Whether any process was asked to stop: all of them stop after the same step."""
    if args.world_size == 1:
        return interrupt.asked()
    asked = torch.tensor(float(interrupt.asked()), device=args.device)
    torch.distributed.all_reduce(asked)
    return bool(asked)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a stage by their steps, without what a user put beside them."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    found = [path for path, step in steps.items() if step.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(steps[path]))
