"""The contenders of bench_kernels.py: our kernels, plain torch and other libraries.

A contender is a function from a problem (kernel_problems.py) to a differentiable result: log-probs
[M], DPO losses [P] or a DPO loss. Loading one imports its library, or raises `Unavailable` or
ImportError with the reason. Libraries are called with their defaults.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from kernel_problems import BETA, Problem
from malt_fast.kernels import dpo_loss, linear_dpo, linear_logprob, logprob_from_logits
from torch import Tensor

Function = Callable[[Problem], Tensor]
LogProbs = Callable[[Tensor, Tensor, Tensor], Tensor]  # hidden [N, H], weight, targets -> [N]
TRL_COLUMNS = 32768  # of the vocabulary at a time: what TRL's trainers use


class Unavailable(Exception):
    """Why a contender cannot run here."""


@dataclass(frozen=True)
class Contender:
    name: str
    load: Callable[[torch.device], Function]
    destroys: bool = False  # the logits it is given
    sweeps: bool = True  # takes part in sweeps


def needs_gpu(device: torch.device, written_in: str) -> None:
    if device.type != "cuda":
        raise Unavailable(f"written in {written_in}: needs a GPU")


# ---- log-probs from hidden rows: (hidden, weight, targets) -> [N] ----


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return selected(F.linear(hidden, weight), targets)


def selected(logits: Tensor, targets: Tensor) -> Tensor:
    """As in most trainers: float32 log-softmax of all logits, of which one per row is read."""
    logp = torch.log_softmax(logits, -1, dtype=torch.float32)
    return logp.gather(1, targets[:, None]).squeeze(1)


def torch_linear_cross_entropy(device: torch.device) -> LogProbs:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise Unavailable(f"torch {torch.__version__} has no chunked F.linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions()

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        if hidden.device.type == "cpu" and hidden.dtype != torch.float32:
            raise Unavailable("emulates low-precision products on a CPU: minutes per call")
        return -F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=options)

    return run


def trl_chunked(device: torch.device) -> LogProbs:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    try:
        import trl.trainer.utils  # noqa: F401
    except (ImportError, RuntimeError):
        # It needs pandas, datasets and accelerate. The backward pass uses only this function of
        # it, which does nothing without DeepSpeed.
        module: Any = ModuleType("trl.trainer.utils")
        module.maybe_gather_lm_head_ctx = lambda *parameters: nullcontext()
        sys.modules[module.__name__] = module

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        more = (None, targets, 1.0, TRL_COLUMNS, None, 1.0, ())
        return ChunkedLogProbFunction.apply(hidden, weight, *more)[0]

    return run


def liger(device: torch.device) -> LogProbs:
    needs_gpu(device, "Triton")
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return -liger_fused_linear_cross_entropy(hidden, weight, targets, reduction="none")

    return run


def liger_sm90(device: torch.device) -> LogProbs:
    needs_gpu(device, "CuTe DSL")
    if torch.cuda.get_device_capability(device) != (9, 0):
        raise Unavailable("written for compute capability 9.0 only")
    from liger_kernel.ops.cutedsl.ops.fused_scaled_cross_entropy_sm90 import (
        LigerFusedScaledCrossEntropySM90Function as Operation,
    )

    return lambda hidden, weight, targets: -Operation.apply(hidden, weight, targets)


def cut_cross_entropy(device: torch.device) -> LogProbs:
    needs_gpu(device, "Triton")
    from cut_cross_entropy import linear_cross_entropy

    return lambda hidden, weight, targets: (
        -linear_cross_entropy(hidden, weight, targets, reduction="none")
    )


def quack(device: torch.device) -> LogProbs:
    """Its GEMM and its cross entropy: the fused version returns only sums and means."""
    needs_gpu(device, "CuTe DSL")
    from quack.linear_cross_entropy import linear_cross_entropy_func

    return lambda hidden, weight, targets: (
        -linear_cross_entropy_func(hidden, weight, None, targets, reduction="none")
    )


def linear(load: Callable[[torch.device], LogProbs]) -> Callable[[torch.device], Function]:
    def loaded(device: torch.device) -> Function:
        function = load(device)
        return lambda x: function(x.hidden, x.weight, x.targets)

    return loaded


def compiled(function: Callable[..., Tensor]) -> Callable[[torch.device], Callable[..., Tensor]]:
    return lambda device: torch.compile(function, dynamic=False)


def ours_linear(x: Problem) -> Tensor:
    return linear_logprob(x.hidden, x.weight, x.rows, x.targets, check=False)


LINEAR_LOGPROB = [
    Contender("malt_fast", lambda device: ours_linear),
    Contender("torch", linear(lambda device: full_logits)),
    Contender("torch.compile", linear(compiled(full_logits)), sweeps=False),
    Contender("torch linear_cross_entropy", linear(torch_linear_cross_entropy), sweeps=False),
    Contender("trl chunked", linear(trl_chunked)),
    Contender("liger", linear(liger)),
    Contender("liger SM90", linear(liger_sm90)),
    Contender("cut-cross-entropy", linear(cut_cross_entropy)),
    Contender("quack", linear(quack)),
]

# ---- log-probs from logits ----


def ours_from_logits(x: Problem) -> Tensor:
    return logprob_from_logits(x.logits, x.targets, check=False)


def ours_in_place(x: Problem) -> Tensor:
    return logprob_from_logits(x.logits, x.targets, inplace_backward=True, check=False)


def log_softmax(x: Problem) -> Tensor:
    return selected(x.logits, x.targets)


def logsumexp(x: Problem) -> Tensor:
    picked = x.logits.gather(1, x.targets[:, None]).squeeze(1)
    return picked.float() - torch.logsumexp(x.logits.float(), 1)


def trl_from_logits(device: torch.device) -> Function:
    """As a batch [8, M / 8, V] if possible: on a CPU TRL loops over the batch."""
    if device.type == "cuda":
        from trl.kernels.logprob_entropy import selective_log_softmax_and_entropy

        return lambda x: selective_log_softmax_and_entropy(x.logits, x.targets)[0]
    from trl.trainer.utils import selective_log_softmax

    def run(x: Problem) -> Tensor:
        batch = 8 if len(x.logits) % 8 == 0 else 1
        logits = x.logits.view(batch, -1, x.logits.shape[1])
        return selective_log_softmax(logits, x.targets.view(batch, -1)).view(-1)

    return run


def liger_from_logits(device: torch.device) -> Function:
    needs_gpu(device, "Triton")
    from liger_kernel.transformers.functional import liger_cross_entropy

    return lambda x: -liger_cross_entropy(x.logits, x.targets, reduction="none")


def quack_from_logits(device: torch.device) -> Function:
    needs_gpu(device, "CuTe DSL")
    from quack.cross_entropy import cross_entropy

    return lambda x: -cross_entropy(x.logits, x.targets)


LOGPROB_FROM_LOGITS = [
    Contender("malt_fast", lambda device: ours_from_logits),
    Contender("malt_fast, in place", lambda device: ours_in_place, destroys=True),
    Contender("torch", lambda device: log_softmax),
    Contender("torch logsumexp", lambda device: logsumexp),
    Contender("torch.compile", compiled(log_softmax)),
    Contender("trl", trl_from_logits),
    Contender("liger, in place", liger_from_logits, destroys=True),
    Contender("quack", quack_from_logits),
]

# ---- DPO losses of pairs, and a DPO loss from hidden rows ----


def written_out(logp: Tensor, ref_logp: Tensor, pairs: Tensor) -> Tensor:
    margin = (logp - ref_logp)[pairs]
    return -F.logsigmoid(BETA * (margin[:, 0] - margin[:, 1]))


def ours_losses(x: Problem) -> Tensor:
    return dpo_loss(x.logp, x.ref_logp, x.pairs, beta=BETA, check=False).losses


def torch_losses(x: Problem) -> Tensor:
    return written_out(x.logp, x.ref_logp, x.pairs)


DPO_LOSS = [
    Contender("malt_fast", lambda device: ours_losses),
    Contender("torch", lambda device: torch_losses),
    Contender("torch.compile", compiled(torch_losses)),
]


def ours_linear_dpo(x: Problem) -> Tensor:
    given = (x.hidden, x.weight, x.rows, x.targets, x.owner, x.pairs)
    return linear_dpo(*given, ref_hidden=x.ref_hidden, beta=BETA, check=False).loss


def composed(load: Callable[[torch.device], LogProbs]) -> Callable[[torch.device], Function]:
    """Log-probs of completion rows by a contender's kernel, then the loss in plain torch."""

    def loaded(device: torch.device) -> Function:
        log_probs = load(device)

        def run(x: Problem) -> Tensor:
            zeros = x.upstream.new_zeros(2 * len(x.pairs))
            logp = log_probs(x.hidden[x.rows], x.weight, x.targets)
            with torch.no_grad():
                ref_logp = log_probs(x.ref_hidden[x.rows], x.weight, x.targets)
            sums = [zeros.index_add(0, x.owner, token.float()) for token in (logp, ref_logp)]
            return written_out(*sums, x.pairs).mean()

        return run

    return loaded


def liger_dpo(device: torch.device) -> Function:
    """All rows of all sequences, prompts masked; expects the chosen first, as here."""
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    loss = LigerFusedLinearDPOLoss(beta=BETA)

    def run(x: Problem) -> Tensor:
        shape = (*x.sequence_targets.shape, x.hidden.shape[1])
        hidden, reference = x.hidden.view(shape), x.ref_hidden.view(shape)
        return loss(x.weight, hidden, x.sequence_targets, None, reference, x.weight.detach())[0]

    return run


LINEAR_DPO = [
    Contender("malt_fast", lambda device: ours_linear_dpo),
    Contender("torch", composed(lambda device: full_logits)),
    Contender("torch.compile", composed(compiled(full_logits))),
    Contender("torch linear_cross_entropy", composed(torch_linear_cross_entropy)),
    Contender("trl chunked", composed(trl_chunked)),
    Contender("liger DPO", liger_dpo),
    Contender("liger SM90", composed(liger_sm90)),
    Contender("cut-cross-entropy", composed(cut_cross_entropy)),
]

CONTENDERS = {
    "linear_logprob": LINEAR_LOGPROB,
    "logprob_from_logits": LOGPROB_FROM_LOGITS,
    "dpo_loss": DPO_LOSS,
    "linear_dpo": LINEAR_DPO,
}
