"""What an engine is made from, so that a worker elsewhere can make it too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from malt_fast.config.schema import EngineConfig
from malt_fast.engines import Engine, Policy


@dataclass(frozen=True)
class EngineSpec:
    """All that one engine of this process is made from; a worker elsewhere can make it too."""

    name: Literal["hf", "vllm"]
    settings: EngineConfig
    dtype: str
    device: str
    policies: tuple[Policy, ...]  # that requests will name
    max_model_len: int | None = None  # longest prompt and output; None is the model's context
    probes: Mapping[Policy, npt.NDArray[np.int32]] = field(default_factory=dict)  # prompts
    gpus: int = 0  # that one engine takes, of a cluster that has any
    trust_remote_code: bool = False  # whether a model may run code of its own

    def open(self) -> Engine:
        """Load the engine. Raises MaltError for what it refuses."""
        if self.name == "hf":
            from malt_fast.engines.hf import HFEngine

            return HFEngine(
                self.dtype, self.device, self.settings.batch_size, self.trust_remote_code
            )
        from malt_fast.engines.vllm import VLLMEngine

        return VLLMEngine(
            self.policies,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            probes=self.probes,
            settings=self.settings.vllm,
            trust_remote_code=self.trust_remote_code,
        )
