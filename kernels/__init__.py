"""Kernels: one operation per file, each beside the plain-torch twin it is tested against.

transformers probes for a package called `kernels` and finds this folder from the root of a
checkout. Under that name it is empty, so that the probe imports no second copy of an operation.
"""

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
