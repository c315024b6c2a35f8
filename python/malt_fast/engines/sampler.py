"""From logits to tokens, row by row: a row's token depends only on its own logits and seed."""

import torch
from torch import Tensor

from malt_fast import _core
from malt_fast.utils.tensors import HALVES, bits

_LOWEST = float("-inf")
_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # odd constants of SplitMix64, as signed 64-bit numbers
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(seeds: Tensor, steps: Tensor) -> Tensor:
    """float64[n] in [0, 1): draw number `steps[i]` of stream `seeds[i]` (both int64[n]).

    SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), whose
    state is a counter, so any draw is reached at once. 52 bits: u * total < total in float64.
    """
    z = seeds + (steps + 1) * _GAMMA
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return _shift(z ^ _shift(z, 31), 12).double() * 2.0**-52


def filtered(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Set tokens that a row's filters exclude to -inf. logits float32[n, V], filters [n].

    vLLM's order: min_p, then top_k (ties with the k-th stay; 0 = all), then top_p (the smallest set
    of the likeliest tokens whose mass reaches top_p; the likeliest token always stays).
    """
    probs = logits.softmax(-1)
    least = min_p[:, None] * probs.amax(-1, keepdim=True)
    logits = logits.masked_fill(probs < least, _LOWEST)

    ordered, order = logits.sort(-1)
    vocabulary = logits.shape[-1]
    k = torch.where(top_k > 0, top_k, vocabulary).clamp(max=vocabulary)
    kth = ordered.gather(-1, (vocabulary - k)[:, None])
    ordered = ordered.masked_fill(ordered < kth, _LOWEST)

    unlikely = ordered.softmax(-1).cumsum(-1) <= (1 - top_p)[:, None]
    unlikely &= (top_p < 1)[:, None]
    unlikely[:, -1] = False
    return torch.empty_like(logits).scatter_(-1, order, ordered.masked_fill(unlikely, _LOWEST))


def draw(logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens int64[n] from softmax(logits / temperature), log-probs float32[n] in softmax(logits).

    logits [n, V] of any type; temperature float32[n], 0 = the first of the likeliest. A token is
    the inverse of the distribution function at uniform, float64[n]. On a CPU it is C++'s draw
    (csrc/kernels/logprob.hpp); results of the two may differ where uniform is at a boundary.
    """
    if logits.device.type != "cpu":
        return draw_in_torch(logits, temperature, uniform)
    rows = logits if logits.dtype in HALVES else logits.float()
    drawn = _core.kernels.draw_rows(*bits(rows), temperature.numpy(), uniform.numpy())
    return torch.from_numpy(drawn[0]), torch.from_numpy(drawn[1])


def draw_in_torch(logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    logits = logits.float()
    greedy = temperature == 0
    weights = (logits / torch.where(greedy, 1, temperature)[:, None]).softmax(-1)
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    point = uniform[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, point, right=True).squeeze(-1)
    index = index.clamp(max=logits.shape[-1] - 1)  # past the end only if the logits were NaN
    tokens = torch.where(greedy, logits.argmax(-1), index)
    return tokens, logprobs_of(logits, tokens)


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """float32[n]: log-probability of tokens[n] under softmax(logits[n, V])."""
    return logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)
