"""Kernels: one operation per file, each beside the plain-torch twin it is tested against.

Python finds this folder from the root of a checkout when transformers asks for the package called
`kernels`. Then that package takes its place if it is installed; else it is empty under that name.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

if __name__ == "malt_fast.kernels":
    from .dpo_loss import DPOLoss, dpo_loss
    from .linear_dpo import LinearDPO, linear_dpo
    from .linear_logprob import LogProb, linear_logprob
    from .logprob_from_logits import logprob_from_logits
    from .lora_linear import lora_linear
    from .softmax_rows import which

    __all__ = [
        "DPOLoss",
        "LinearDPO",
        "LogProb",
        "dpo_loss",
        "linear_dpo",
        "linear_logprob",
        "logprob_from_logits",
        "lora_linear",
        "which",
    ]
else:
    root = Path(__file__).resolve().parents[1]
    elsewhere = [folder for folder in sys.path if Path(folder).resolve() != root]
    if (spec := PathFinder.find_spec(__name__, elsewhere)) and spec.loader:
        sys.modules[__name__] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[__name__])
