"""One training stage of one role, as plain data: what it is made from, and how it is run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from malt_fast.config.schema import Config, LoraConfig
from malt_fast.config.stages import DPOStageConfig, StageConfig
from malt_fast.engines import Policy
from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.models.identity import adapter_identity, model_identity
from malt_fast.training.references import Source
from malt_fast.utils.distributed import process_count
from malt_fast.utils.seals import seal_of

Layout = Literal["trees", "rows"]  # of a batch: see packing.py
Method = Literal["none", "selective", "full"]  # of checkpointing: see activations.py
METHODS: tuple[Method, ...] = ("none", "selective", "full")  # from fast to lean


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
    use_liger_kernel: bool = False

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
            use_liger_kernel=train.use_liger_kernel,
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
        arrays: list[npt.NDArray[Any]] = [*data.prompts, *data.completions, data.links, data.trees]
        arrays.append(data.labelled[:, 1])
        for array in arrays:
            digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def tokens(self, data: RoleData) -> int:
        """Tokens in all passes over the rows, each with its whole prompts."""
        return round(passes(self.args, data.rows(self.stage)) * data.tokens(self.stage))

    def is_done(self, data: RoleData, out: Path) -> bool:
        """Whether `out` holds the undamaged adapter that this stage makes of `data`."""
        return seal_of(out) == self.fingerprint(data)

    @property
    def reference_model(self) -> Source:
        """The model whose log-probs DPO compares with."""
        adapter = self.init_adapter if self.reference == "sft" else None
        return self.base, adapter, (self.dtype, self.args.bf16, self.load_in_4bit)


def passes(args: StageConfig | DPOStageConfig, rows: float) -> float:
    """How many times a stage passes over its rows, in as many processes as there are now."""
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps * process_count()
    return args.max_steps * step / rows if args.max_steps > 0 else args.num_train_epochs


@dataclass(frozen=True)
class Choice:
    """What a stage keeps of its activations, and the figures that it was chosen by."""

    method: Method
    tokens: int  # of the longest batch, with padding
    estimates: Mapping[Method, int]  # bytes beside the weights
    free: int  # bytes

    def __str__(self) -> str:
        needs = ", ".join(f"{name} {_gb(size)}" for name, size in self.estimates.items())
        return (
            f"gradient_checkpointing {self.method} (GB for batches of {self.tokens:,} tokens: "
            f"{needs}; free: {_gb(self.free)})"
        )

    def figures(self) -> dict[str, Any]:
        sizes = {f"{name}_mb": size // 2**20 for name, size in self.estimates.items()}
        return {
            "gradient_checkpointing": self.method,
            "batch_tokens": self.tokens,
            **sizes,
            "free_mb": self.free // 2**20,
        }


def _gb(size: int) -> str:
    return f"{size / 2**30:.2f}"
