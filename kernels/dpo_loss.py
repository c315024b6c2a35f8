"""Preference losses of pairs of completions, from the log-prob of each completion.

Many pairs share a completion: it appears once, and pairs index it. With

    r = logp - ref_logp                                       [C]
    m = s_c r_c - s_d r_d     of each pair (c, d)             [P]

    loss       f(m)                                           s
    sigmoid    -(1 - e) log sigma(m) - e log sigma(-m)        beta
    hinge      max(0, 1 - m)                                  beta
    ipo        (m - 1 / (2 beta))^2                           1 / length

sigmoid: DPO, arXiv 2305.18290 eq. 7. e = label_smoothing makes it conservative DPO (Mitchell 2023):
the expected loss if a share e of the labels is flipped. TRL 1.16 has no such option for "sigmoid";
there it is 2 (1 - e) "sigmoid" - (1 - 2 e) "robust". hinge: SLiC, arXiv 2305.10425. ipo: arXiv
2310.12036 eq. 17 with tau = beta, per token as in TRL.

rpo_alpha adds rpo_alpha * NLL of the chosen (RPO, arXiv 2404.19733), as TRL's loss_type
["sigmoid", "sft"] with loss_weights [1, rpo_alpha]: a mean over all chosen tokens, where a
completion counts once per pair. With L the mean length of the chosen

    loss            = f(m) - (rpo_alpha / L) logp_c
    d loss / d logp = f'(m) s_c - rpo_alpha / L for c, -f'(m) s_d for d: the slopes

One pass over the pairs gives losses, rewards beta r and slopes; the slopes [2, P] are kept. The
backward pass scales them by the upstream gradient and adds them up per completion, always in the
same order. A GPU does that without atomics: a program owns some completions and reads all pairs,
O(C P) comparisons, which is little for the thousands of pairs of an optimiser step.

There are three implementations: plain torch here, the reference, for any dtype; C++ for float32 on
a CPU (csrc/kernels/dpo.hpp); Triton for float32 on a GPU (dpo_loss_triton.py).
"""

from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, Required, TypedDict, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from malt_fast import _core

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


class PreferenceOptions(TypedDict, total=False):
    """Keywords of dpo_loss and linear_dpo."""

    beta: Required[float]
    loss_type: LossType
    label_smoothing: float
    rpo_alpha: float | None
    mean_chosen_length: Tensor | float | None


class Preference(NamedTuple):
    """Which loss of a pair."""

    beta: float
    loss_type: LossType = "sigmoid"
    label_smoothing: float = 0.0
    rpo_alpha: float | None = None
    mean_chosen_length: Tensor | float | None = None


def dpo_loss(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None = None,
    *,
    check: bool = True,
    **options: Unpack[PreferenceOptions],
) -> DPOLoss:
    """Loss and rewards of each pair. The loss of a batch is the mean of `losses`.

    logp, ref_logp [C]: log-prob of each completion, summed over its tokens, under policy and
    reference, float32 or float64. pairs [P, 2]: (chosen, rejected) completions. lengths [C]: tokens
    of each completion, for ipo and rpo_alpha. check: verify the values of pairs and lengths, which
    waits for a GPU.
    Options: beta, required; loss_type, sigmoid, hinge or ipo, default sigmoid; label_smoothing,
    default 0; rpo_alpha, default none; mean_chosen_length, chosen tokens per pair, default the mean
    of these pairs; with micro-batches, the mean of the whole optimiser step.

    Differentiable once, in logp only. Raises ValueError for what does not fit.
    """
    preference = Preference(**options)
    loss_type = preference.loss_type
    _check_preference(preference)
    _check_tensors(logp, ref_logp, pairs, lengths)
    lacks_length = preference.rpo_alpha and preference.mean_chosen_length is None
    if lengths is None and (loss_type == "ipo" or lacks_length):
        raise ValueError(
            f"lengths [C] is missing, which {'ipo' if loss_type == 'ipo' else 'rpo_alpha'} needs: "
            "give the tokens of each completion"
        )
    pairs = pairs.long()
    if check:
        if _choose(logp) is not CPP:  # which checks them itself, in less time
            checks.in_range(("pairs", pairs, len(logp)))
        if lengths is not None and loss_type == "ipo":
            checks.all_positive(lengths=lengths[pairs])
    operation = _operator if torch.compiler.is_compiling() else _Eager.apply
    losses, rewards, _ = operation(
        logp,
        ref_logp.detach().to(logp.dtype),
        pairs,
        None if lengths is None or loss_type != "ipo" else lengths.long(),
        _nll_weight(logp, pairs, lengths, preference),
        loss_type,
        preference.beta,
        preference.label_smoothing,
    )
    return DPOLoss(losses, *rewards.unbind(0))


def _nll_weight(
    logp: Tensor, pairs: Tensor, lengths: Tensor | None, preference: Preference
) -> Tensor | None:
    """rpo_alpha / L, as a scalar tensor: the mean length may be known to a GPU only."""
    rpo_alpha, mean_length = preference.rpo_alpha, preference.mean_chosen_length
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


def _gradient(grad: Tensor, slopes: Tensor, pairs: Tensor, logp: Tensor) -> Tensor:
    """d(sum grad losses) / d logp [C]; grad [P]. With logp, second derivatives are refused."""
    grad = grad.detach().to(slopes.dtype).contiguous()
    return _choose(slopes).backward(grad, slopes, pairs.contiguous(), len(logp))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logp, _, pairs, *_ = inputs
    _, rewards, slopes = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(rewards, slopes)
    ctx.save_for_backward(slopes, pairs, logp)


# torch.compile sees two operators.
_operator = torch.library.custom_op("malt_fast::dpo_loss", _forward, mutates_args=())
_gradient_operator = torch.library.custom_op(
    "malt_fast::dpo_loss_backward", _gradient, mutates_args=()
)


@_operator.register_fake
def _(logp: Tensor, ref_logp: Tensor, pairs: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    count = pairs.shape[0]
    return logp.new_empty(count), logp.new_empty(2, count), logp.new_empty(2, count)


@_gradient_operator.register_fake
def _(grad: Tensor, slopes: Tensor, pairs: Tensor, logp: Tensor) -> Tensor:
    return slopes.new_empty(logp.shape[0])


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    return _gradient_operator(grad, *ctx.saved_tensors), *(None,) * 7


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "dpo_loss is differentiable once: its gradient has no gradient, so leave out "
        "create_graph=True"
    )


_operator.register_autograd(_backward, setup_context=_save)
_gradient_operator.register_autograd(_twice)


class _Eager(torch.autograd.Function):
    """The same without operators, whose calls would take longer than thousands of pairs."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None or torch.is_grad_enabled():  # the operator refuses a second derivative
            return _backward(ctx, grad)
        return _gradient(grad, *ctx.saved_tensors), *(None,) * 7


def _choose(values: Tensor) -> Any:
    """The implementation, with `forward` and `backward`. Raises RuntimeError without Triton."""
    kind = values.device.type
    if values.dtype == torch.float64 or kind not in ("cpu", "cuda"):
        return TORCH
    return CPP if kind == "cpu" else softmax_rows.triton_module("dpo_loss_triton")


# ---- plain torch ----


def _forward_torch(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None,
    nll: Tensor | None,
    loss_type: LossType,
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
    margin: Tensor, loss_type: LossType, beta: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """f(m) and f'(m)."""
    if loss_type == "ipo":
        error = margin - 1 / (2 * beta)
        return error**2, 2 * error
    if loss_type == "hinge":
        return torch.relu(1 - margin), (margin >= 1).to(margin.dtype) - 1
    losses, slope = -F.logsigmoid(margin), -torch.sigmoid(-margin)
    if label_smoothing:  # 0 times an infinite loss would be NaN
        e = label_smoothing
        losses = (1 - e) * losses - e * F.logsigmoid(-margin)
        slope = (1 - e) * slope + e * torch.sigmoid(margin)
    return losses, slope


def _backward_torch(grad: Tensor, slopes: Tensor, pairs: Tensor, completions: int) -> Tensor:
    total = slopes.new_zeros(completions)  # index_put_ adds in a fixed order
    return total.index_put_((pairs.T,), grad * slopes, accumulate=True)


# ---- C++ ----


def _forward_cpp(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None,
    nll: Tensor | None,
    loss_type: LossType,
    beta: float,
    label_smoothing: float,
) -> tuple[Tensor, ...]:
    arrays = _core.kernels.dpo_losses(
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
    return torch.from_numpy(_core.kernels.dpo_gradient(*arrays, completions))


TORCH = SimpleNamespace(forward=_forward_torch, backward=_backward_torch)
CPP = SimpleNamespace(forward=_forward_cpp, backward=_backward_cpp)


# ---- inputs ----


def _check_preference(preference: Preference) -> None:
    beta, loss_type, label_smoothing, rpo_alpha, _ = preference
    if loss_type not in get_args(LossType):
        raise ValueError(f"loss_type must be sigmoid, hinge or ipo, not {loss_type!r}")
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}")
    if label_smoothing and loss_type != "sigmoid":
        raise ValueError(f"label_smoothing is for loss_type sigmoid, not {loss_type}: set it to 0")
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
        raise ValueError(f"logp must be [C], one per completion, got {list(logp.shape)}")
    checks.shape("ref_logp", ref_logp, tuple(logp.shape), "one per completion")
    checks.pairs(pairs)
    if lengths is not None:
        checks.integers(lengths=lengths)
        checks.shape("lengths", lengths, tuple(logp.shape), "one per completion")
    checks.same_device(logp.device, ref_logp=ref_logp, pairs=pairs, lengths=lengths)
