"""Softmax over rows of logits that never exist as a whole: the choice of an implementation.

Three modules implement the same operations on tiles. A tile is [R, n]: the columns
[first, first + n) of the logits of R rows (types and formulas: running_softmax.py).

    fold        takes a tile into the running softmax; returns weights if wanted
    gradient    turns a tile of logits into gradients, once log sum exp z is known

With g_k the gradient of the loss in the log-prob of the row's target k, the gradient of a tile is

    grad_logits = cap'(raw) (onehot g - (sum_k g_k) softmax(z)) / T

softmax_rows_torch.py is the reference, in plain torch, for any dtype. softmax_rows_cpp.py runs
float32, bfloat16 and float16 on a CPU, softmax_rows_triton.py on a GPU.
"""

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch

from . import softmax_rows_cpp, softmax_rows_torch
from .running_softmax import LOW_PRECISION

NO_TRITON = (
    "kernels on a GPU need Triton: pip install triton, or move the tensors to the CPU, "
    "whose kernels are C++"
)


def choose(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The implementation for tiles on `device`.

    dtype: of the operands the tiles are made from. Raises RuntimeError on a GPU without Triton.
    """
    if dtype == torch.float64 or device.type not in ("cpu", "cuda"):
        return softmax_rows_torch
    return softmax_rows_cpp if device.type == "cpu" else triton_module("softmax_rows_triton")


def which(device: torch.device | str, dtype: torch.dtype) -> str:
    """The implementation for tensors of `dtype` on `device`, and why: `NAME: reason`.

    >>> which("cpu", torch.float64)
    'torch: float64 is the reference'
    """
    device = torch.device(device)
    if dtype == torch.float64:
        return "torch: float64 is the reference"
    if dtype not in (torch.float32, *LOW_PRECISION):
        return f"nothing: {dtype} is not float32, bfloat16, float16 or float64"
    if device.type == "cpu":
        return f"cpp: C++ with {softmax_rows_cpp.simd_level()}, the best this machine runs"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return f"nothing: {NO_TRITON}"
        return "triton: a GPU, with tiles multiplied by cuBLAS"
    return f"torch: no kernel is written for {device.type}"


@cache  # looking for a package takes longer than a launch
def triton_module(name: str) -> ModuleType:
    """A file of Triton kernels of this package. Raises RuntimeError without Triton."""
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError(NO_TRITON)
    return importlib.import_module(f".{name}", __package__)
