"""Settings of the training stages, SFT and DPO, and what a role may override of them."""

from typing import TYPE_CHECKING, Literal, Self

from malt_fast.config.sections import MAX, Patch, Section, override, partial, setting

PairLoss = Literal["sigmoid", "ipo", "hinge"]
LossType = Literal["sigmoid", "ipo", "hinge", "kto", "sigmoid+kto"]
_ON_PAIRS: dict[LossType, PairLoss | None] = {
    "sigmoid": "sigmoid",
    "ipo": "ipo",
    "hinge": "hinge",
    "kto": None,
    "sigmoid+kto": "sigmoid",
}


class StageSettings(Section):
    learning_rate: float = setting(2e-4, "peak learning rate", gt=0, le=1)
    num_train_epochs: float = setting(1, "passes over the data", gt=0, le=1000)
    max_steps: int = setting(-1, "stop after this many updates; -1: train by epochs", ge=-1, le=MAX)
    per_device_train_batch_size: int = setting(
        8,
        "examples, pairs or labelled outputs per step; with packing: rows, also per forward pass",
        ge=1,
        le=MAX,
    )
    gradient_accumulation_steps: int = setting(1, "steps per update", ge=1, le=MAX)
    warmup_steps: float = setting(
        0, "updates of warm-up; below 1, a share of all updates", ge=0, le=MAX
    )
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"
    ] = setting("linear", "learning-rate schedule")
    weight_decay: float = setting(0, "AdamW weight decay", ge=0, le=1)
    max_grad_norm: float = setting(1.0, "gradient clipping; 0: none", ge=0, le=1e6)
    max_length: int | None = setting(
        None,
        "longest sequence in tokens, a longer one is an error; unset: the context",
        ge=2,
        le=MAX,
    )
    logging_steps: int = setting(10, "updates between log lines", ge=1, le=MAX)
    save_steps: int = setting(500, "updates between checkpoints", ge=1, le=MAX)
    bf16: bool = setting(False, "train under bfloat16 autocast")
    gradient_checkpointing: Literal["auto", "none", "selective", "full"] = setting(
        "auto",
        "what the backward pass computes again to save memory: nothing, what is cheap (all but "
        "matrix products and attention), whole layers, or the first of these that fits",
    )


class DPOStageSettings(StageSettings):
    learning_rate: float = setting(1e-5, "peak learning rate", gt=0, le=1)
    beta: float = setting(0.2, "strength of the pull towards the reference model", gt=0, le=100)
    loss_type: LossType = setting(
        "sigmoid",
        "of pairs: sigmoid, ipo or hinge; of all labelled outputs: kto; of both: sigmoid+kto",
    )
    desirable_weight: float = setting(1.0, "kto: weight of positive outputs", ge=0, le=1e3)
    undesirable_weight: float = setting(1.0, "kto: weight of negative outputs", ge=0, le=1e3)
    label_smoothing: float = setting(0.0, "assumed share of flipped preferences", ge=0, lt=0.5)
    rpo_alpha: float | None = setting(
        None, "weight of an NLL term on the chosen output of a pair", ge=0, le=1e3
    )

    @property
    def on_pairs(self) -> PairLoss | None:
        """The loss of pairs; None if the stage learns from labelled outputs alone."""
        return _ON_PAIRS[self.loss_type]

    @property
    def on_labels(self) -> bool:
        """Whether the stage learns from labelled outputs."""
        return "kto" in self.loss_type


if TYPE_CHECKING:  # a type checker cannot follow partial()
    StagePatch = Patch
    DPOStagePatch = Patch
else:
    StagePatch = partial(StageSettings, "StagePatch")
    DPOStagePatch = partial(DPOStageSettings, "DPOStagePatch")


class StageConfig(StageSettings):
    roles: dict[str, StagePatch] = setting(
        {}, "settings of one role: --train.sft.roles.ROLE.learning_rate 1e-4"
    )

    def for_role(self, role: str) -> Self:
        """These settings with the overrides of the role applied."""
        return override(self, self.roles.get(role))


class DPOStageConfig(DPOStageSettings):
    roles: dict[str, DPOStagePatch] = setting(
        {}, "settings of one role: --train.dpo.roles.ROLE.beta 0.1"
    )

    def for_role(self, role: str) -> Self:
        """These settings with the overrides of the role applied."""
        return override(self, self.roles.get(role))
