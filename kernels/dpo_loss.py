"""Preference losses of pairs of completions, from the log-prob of each completion.

Many pairs share a completion: it appears once, and pairs index it. With

    r = logp - ref_logp                                       [C]
    m = s_c r_c - s_d r_d     of each pair (c, d)             [P]

    loss       f(m)                                           s
    sigmoid    -(1 - e) log sigma(m) - e log sigma(-m)        beta
    hinge      max(0, 1 - m)                                  beta
    ipo        (m - 1 / (2 beta))^2                           1 / length

sigmoid: DPO, arXiv 2305.18290 eq. 7. e = label_smoothing makes it conservative DPO (Mitchell 2023):
the expected loss when a share e of the labels is flipped. TRL 1.16 has no such switch on "sigmoid";
there it is 2 (1 - e) "sigmoid" - (1 - 2 e) "robust". hinge: SLiC, arXiv 2305.10425. ipo: arXiv
2310.12036 eq. 17 with tau = beta, per token as TRL does it.

rpo_alpha adds rpo_alpha * NLL of the chosen (RPO, arXiv 2404.19733), as TRL's loss_type
["sigmoid", "sft"] with loss_weights [1, rpo_alpha]: a mean over all chosen tokens, a completion
counting once a pair, so that with L the mean length of the chosen

    loss            = f(m) - (rpo_alpha / L) logp_c
    d loss / d logp = f'(m) s_c - rpo_alpha / L for c, -f'(m) s_d for d: the slopes

Losses, rewards beta r and slopes come from one pass over the pairs; the slopes [2, P] are kept.
Backward scales them by the upstream gradient and adds them up per completion, always in the same
order. A GPU does that without atomics: a program owns some completions and looks through all
pairs, O(C P) comparisons, a trifle for the thousands of pairs of an optimiser step.

Written three times: here in plain torch, the reference, any dtype; in C++ for float32 on a CPU
(csrc/kernels/dpo.hpp); in Triton for float32 on a GPU (dpo_loss_triton.py).
"""

import importlib.util
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checks, softmax_rows

LossType = Literal["sigmoid", "hinge", "ipo"]


class DPOLoss(NamedTuple):
    """[P] each. Rewards, beta times the log-ratio of policy and reference, have no gradient."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor

    @property
    def margins(self) -> Tensor:
        return self.chosen_rewards - self.rejected_rewards


def dpo_loss(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None = None,
    *,
    beta: float,
    loss_type: LossType = "sigmoid",
    label_smoothing: float = 0.0,
    rpo_alpha: float | None = None,
    mean_chosen_length: Tensor | float | None = None,
    check: bool = True,
) -> DPOLoss:
    """Loss and rewards of each pair; the losses' mean is the loss.

    logp, ref_logp [C]: log-prob of each completion, summed over its tokens, under policy and
    reference, float32 or float64; pairs [P, 2]: (chosen, rejected) completions; lengths [C]: tokens
    of each completion, for ipo and rpo_alpha. mean_chosen_length: chosen tokens a pair, default
    that of these pairs; of the whole optimiser step when this is one of several micro-batches.
    check: look at values of pairs and lengths (on a GPU this waits for them).

    Differentiable once, in logp only. Raises ValueError for what does not fit.
    """
    _check_settings(beta, loss_type, label_smoothing, rpo_alpha)
    _check_tensors(logp, ref_logp, pairs, lengths)
    if lengths is None and (loss_type == "ipo" or (rpo_alpha and mean_chosen_length is None)):
        raise ValueError(
            f"lengths [C] is missing, which {'ipo' if loss_type == 'ipo' else 'rpo_alpha'} needs: "
            "give the tokens of each completion"
        )
    pairs = pairs.long()
    if check:
        checks.in_range(("pairs", pairs, len(logp)))
        if lengths is not None and loss_type == "ipo":
            checks.positive("lengths", lengths[pairs])
    losses, rewards, _ = _forward(
        logp,
        ref_logp.detach().to(logp.dtype),
        pairs,
        None if lengths is None or loss_type != "ipo" else lengths.long(),
        _nll_weight(logp, pairs, lengths, rpo_alpha, mean_chosen_length),
        loss_type,
        beta,
        label_smoothing,
    )
    return DPOLoss(losses, *rewards.unbind(0))


def _nll_weight(
    logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None,
    rpo_alpha: float | None,
    mean_length: Tensor | float | None,
) -> Tensor | None:
    """rpo_alpha / L, a scalar tensor: the mean length may be known to a GPU only."""
    if not rpo_alpha:
        return None
    if mean_length is None:
        assert lengths is not None
        mean_length = lengths[pairs[:, 0]].to(logp.dtype).mean()
    if not isinstance(mean_length, Tensor):
        if not mean_length > 0:
            raise ValueError(f"mean_chosen_length must be positive, got {mean_length}")
        return logp.new_full((), rpo_alpha / mean_length)
    checks.same_device(logp.device, mean_chosen_length=mean_length)
    if mean_length.numel() != 1:
        raise ValueError(f"mean_chosen_length must be one number, got {list(mean_length.shape)}")
    return (rpo_alpha / mean_length.detach()).to(logp.dtype).reshape(())


# ---- the operation ----


@torch.library.custom_op("malt_fast::dpo_loss", mutates_args=())
def _forward(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None,
    nll: Tensor | None,
    loss_type: str,
    beta: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """losses [P]; rewards and slopes [2, P], of the chosen and of the rejected."""
    given = (logp, ref_logp, pairs, lengths)
    inputs = (None if x is None else x.detach().contiguous() for x in given)
    return _choose(logp).forward(*inputs, nll, loss_type, beta, label_smoothing)


@_forward.register_fake
def _(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None,
    nll: Tensor | None,
    loss_type: str,
    beta: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    count = pairs.shape[0]
    return logp.new_empty(count), logp.new_empty(2, count), logp.new_empty(2, count)


@torch.library.custom_op("malt_fast::dpo_loss_backward", mutates_args=())
def _gradient(grad: Tensor, slopes: Tensor, pairs: Tensor, logp: Tensor) -> Tensor:
    """d(sum grad losses) / d logp [C]; grad [P]. logp: so that a second derivative is refused."""
    grad = grad.detach().to(slopes.dtype).contiguous()
    return _choose(slopes).backward(grad, slopes, pairs.contiguous(), len(logp))


@_gradient.register_fake
def _(grad: Tensor, slopes: Tensor, pairs: Tensor, logp: Tensor) -> Tensor:
    return slopes.new_empty(logp.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logp, _, pairs, *_ = inputs
    _, rewards, slopes = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(rewards, slopes)
    ctx.save_for_backward(slopes, pairs, logp)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    return _gradient(grad, *ctx.saved_tensors), *(None,) * 7


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "dpo_loss is differentiable once: its gradient has no gradient, so leave out "
        "create_graph=True"
    )


torch.library.register_autograd("malt_fast::dpo_loss", _backward, setup_context=_save)
torch.library.register_autograd("malt_fast::dpo_loss_backward", _twice)


def _choose(values: Tensor) -> Any:
    """The implementation, an object with `forward` and `backward`. RuntimeError: see NO_TRITON."""
    kind = values.device.type
    if values.dtype == torch.float64 or kind not in ("cpu", "cuda"):
        return TORCH
    if kind == "cpu":
        return CPP
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError(softmax_rows.NO_TRITON)
    from . import dpo_loss_triton

    return dpo_loss_triton


# ---- plain torch ----


def _forward_torch(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None,
    nll: Tensor | None,
    loss_type: str,
    beta: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    ratio = logp - ref_logp
    scale = torch.full_like(ratio, beta) if lengths is None else 1 / lengths.to(ratio.dtype)
    rewards = (beta * ratio)[pairs.T]  # [2, P]
    scales = scale[pairs.T]
    chosen, rejected = (scale * ratio)[pairs.T]
    losses, slope = _preference(chosen - rejected, loss_type, beta, label_smoothing)
    slopes = torch.stack([slope, -slope]) * scales
    if nll is not None:
        losses = losses - nll * logp[pairs[:, 0]]
        slopes[0] -= nll
    return losses, rewards, slopes


def _preference(
    margin: Tensor, loss_type: str, beta: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """f(m) and f'(m)."""
    if loss_type == "ipo":
        error = margin - 1 / (2 * beta)
        return error**2, 2 * error
    if loss_type == "hinge":
        return torch.relu(1 - margin), (margin >= 1).to(margin.dtype) - 1
    losses, slope = -F.logsigmoid(margin), -torch.sigmoid(-margin)
    if label_smoothing:  # 0 times an infinite loss is no number
        e = label_smoothing
        losses = (1 - e) * losses - e * F.logsigmoid(-margin)
        slope = (1 - e) * slope + e * torch.sigmoid(margin)
    return losses, slope


def _backward_torch(grad: Tensor, slopes: Tensor, pairs: Tensor, completions: int) -> Tensor:
    total = slopes.new_zeros(completions)  # index_put_ adds in a fixed order, index_add_ may not
    return total.index_put_((pairs.T,), grad * slopes, accumulate=True)


# ---- C++ ----


def _forward_cpp(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None,
    nll: Tensor | None,
    loss_type: str,
    beta: float,
    label_smoothing: float,
) -> tuple[Tensor, ...]:
    arrays = _core().dpo_losses(
        logp.numpy(),
        ref_logp.numpy(),
        pairs.view(-1).numpy(),
        None if lengths is None else lengths.numpy(),
        loss_type=loss_type,
        beta=beta,
        label_smoothing=label_smoothing,
        nll=0.0 if nll is None else float(nll),
    )
    return tuple(torch.from_numpy(array) for array in arrays)


def _backward_cpp(grad: Tensor, slopes: Tensor, pairs: Tensor, completions: int) -> Tensor:
    arrays = grad.numpy(), slopes.view(-1).numpy(), pairs.view(-1).numpy()
    return torch.from_numpy(_core().dpo_gradient(*arrays, completions))


def _core() -> Any:
    from malt_fast import _core

    return _core


TORCH = SimpleNamespace(forward=_forward_torch, backward=_backward_torch)
CPP = SimpleNamespace(forward=_forward_cpp, backward=_backward_cpp)


# ---- what goes in ----


def _check_settings(
    beta: float, loss_type: str, label_smoothing: float, rpo_alpha: float | None
) -> None:
    if loss_type not in get_args(LossType):
        raise ValueError(f"loss_type must be sigmoid, hinge or ipo, not {loss_type!r}")
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}")
    if label_smoothing and loss_type != "sigmoid":
        raise ValueError(
            f"label_smoothing belongs to loss_type sigmoid, not {loss_type}: set it to 0"
        )
    if rpo_alpha is not None and not 0 <= rpo_alpha < float("inf"):
        raise ValueError(f"rpo_alpha must be 0 or more, got {rpo_alpha}: None means no NLL term")


def _check_tensors(logp: Tensor, ref_logp: Tensor, pairs: Tensor, lengths: Tensor | None) -> None:
    for name, tensor in {"logp": logp, "ref_logp": ref_logp}.items():
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name} must be float32 or float64, not {tensor.dtype}: "
                "sum the log-probs of a completion in float32"
            )
    if logp.ndim != 1:
        raise ValueError(f"logp must be [C], one a completion, got {list(logp.shape)}")
    checks.shape("ref_logp", ref_logp, tuple(logp.shape), "one a completion")
    checks.integers(pairs=pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs must be [P, 2], (chosen, rejected), got {list(pairs.shape)}")
    if lengths is not None:
        checks.integers(lengths=lengths)
        checks.shape("lengths", lengths, tuple(logp.shape), "one a completion")
    checks.same_device(logp.device, ref_logp=ref_logp, pairs=pairs, lengths=lengths)
