"""torch's tensors as the core takes them."""

from typing import Any

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def bits(x: Tensor) -> tuple[Any, Any]:
    """The memory as a NumPy array (uint16 for 16-bit floats) and the name of its real type."""
    array = (x.view(torch.uint16) if x.dtype in HALVES else x).numpy()
    return array, str(x.dtype).removeprefix("torch.")
