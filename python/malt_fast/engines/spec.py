"""The description of an engine, from which any process can open it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from malt_fast.config.schema import EngineConfig
from malt_fast.engines import Engine, Policy


@dataclass(frozen=True)
class EngineSpec:
    """Everything needed to open one engine that runs inside a process."""

    name: Literal["hf", "vllm"]
    settings: EngineConfig
    dtype: str
    device: str
    policies: tuple[Policy, ...]  # that requests will name
    max_model_len: int | None = None  # longest prompt with its output; None: the model's context
    probes: Mapping[Policy, npt.NDArray[np.int32]] = field(default_factory=dict)  # prompts
    gpus: int = 0  # of one engine, in a cluster that has any
    trust_remote_code: bool = False  # whether a model may run its own code
    load: bool = False  # all weights at once, where an engine would wait until they are needed

    def open(self) -> Engine:
        """Load the engine. Raises MaltError for a model, adapter or setting that it refuses."""
        if self.name == "hf":
            from malt_fast.engines.hf import HFEngine

            engine = HFEngine(
                self.dtype, self.device, self.settings.batch_size, self.trust_remote_code
            )
            if self.load:
                engine.load(self.policies)
            return engine
        from malt_fast.engines.vllm import VLLMEngine

        return VLLMEngine(
            self.policies,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            probes=self.probes,
            settings=self.settings.vllm,
            trust_remote_code=self.trust_remote_code,
        )
