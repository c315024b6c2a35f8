"""Checks of the operations' inputs; each raises ValueError with one sentence.

Shapes, dtypes and devices are free to check. Checking values waits for the GPU: those checks can be
switched off, and are skipped while torch.compile traces, when there are no values.
"""

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def floating(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in FLOATING:
            raise ValueError(
                f"{name} must be float32, bfloat16, float16 or float64, not {tensor.dtype}: "
                "convert it first"
            )


def integers(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
            raise ValueError(f"{name} must be integers, not {tensor.dtype}")


def shape(name: str, tensor: Tensor, wanted: tuple[int, ...], meaning: str) -> None:
    if tensor.shape != wanted:
        raise ValueError(f"{name} must be {list(wanted)}, {meaning}, got {list(tensor.shape)}")


def pairs(tensor: Tensor) -> None:
    integers(pairs=tensor)
    if tensor.ndim != 2 or tensor.shape[1] != 2:
        raise ValueError(f"pairs must be [P, 2], (chosen, rejected), got {list(tensor.shape)}")


def same_device(device: torch.device, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, the rest on {device}: move it there")


def temperature(value: float | Tensor, rows: int, device: torch.device) -> None:
    if isinstance(value, Tensor):
        shape("temperature", value, (rows,), "one per row, or a number")
        same_device(device, temperature=value)
        if value.requires_grad:
            raise ValueError("temperature cannot have a gradient: detach it")
    elif not 0 < value < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {value}")


def softcap(value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"logit_softcap must be positive, got {value}: None means no cap")


def in_range(*given: tuple[str, Tensor, int]) -> None:
    """Every (name, tensor, size) holds indices in [0, size); waits for the device once."""
    given = tuple(entry for entry in given if entry[1].numel())
    if torch.compiler.is_compiling() or not given:
        return
    ends = torch.stack([end.long() for _, tensor, _ in given for end in tensor.aminmax()]).tolist()
    for (name, _, size), low, high in zip(given, ends[::2], ends[1::2], strict=True):
        between(name, (low, high), size)


def between(name: str, ends: tuple[int, int], size: int) -> None:
    """The least and largest of `name` are in [0, size)."""
    low, high = ends
    if low < 0 or high >= size:
        raise ValueError(f"{name} must be in [0, {size}), got {low} to {high}")


def all_positive(**tensors: object) -> None:
    """What is a tensor has no values of 0 or less; waits for the device."""
    for name, value in tensors.items():
        if isinstance(value, Tensor) and not torch.compiler.is_compiling():
            positive(name, holds=bool((value > 0).all()))


def positive(name: str, *, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name} must be positive everywhere")
