"""Liger's fused layers (RMSNorm, RoPE, SwiGLU) in one model, and in no other.

Liger exchanges the layers of the model that it is given. Beside that it exchanges functions and
classes in the module of transformers that defines the model, which all models of the process share:
they are put back, and the layers of the one model get functions that see Liger's RoPE.
"""

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.util import find_spec
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.integrations.liger import apply_liger_kernel

from malt_fast.utils.errors import MaltError

HEADS_OFF = {"cross_entropy": False, "fused_linear_cross_entropy": False}  # we have our own
APART = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05}  # relative, by rounding


def check_liger(base: str, config: Any, device: str) -> None:
    """Raises MaltError where Liger's layers cannot run."""
    if find_spec("liger_kernel") is None:
        raise MaltError(
            "train.use_liger_kernel needs liger-kernel, which is not installed: "
            "pip install liger-kernel"
        )
    if device == "cpu" or not torch.cuda.is_available():
        raise MaltError(
            "train.use_liger_kernel needs a GPU, which runs its Triton kernels: set it to false"
        )
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise MaltError(
            f"train.use_liger_kernel: Liger does not know '{config.model_type}', the family of "
            f"'{base}': set it to false"
        )


def apply_liger(causal: transformers.PreTrainedModel, forward: Callable[[], Tensor]) -> None:
    """Let the layers of `causal` run as Liger's.

    forward: some results of the model. Raises MaltError if they are other ones afterwards, since
    Liger looks at a model's family alone, and not at settings such as its activation function.
    """
    with torch.no_grad():
        before = forward()
        exchange_layers(causal)
        after = forward()
    apart, dtype = (after - before).abs().mean(), next(causal.parameters()).dtype
    low = torch.is_autocast_enabled(before.device.type)
    if apart > APART[torch.bfloat16 if low else dtype] * before.abs().mean():
        raise MaltError(
            f"train.use_liger_kernel changes the log-probs of {type(causal).__name__} by "
            f"{apart:.2g}: set it to false"
        )


def exchange_layers(causal: transformers.PreTrainedModel) -> None:
    """As `apply_liger`, without a check."""
    modules = {sys.modules[type(part).__module__] for part in causal.modules()}
    before = {module: dict(vars(module)) for module in modules}
    apply_liger_kernel(causal, HEADS_OFF)
    for module, names in before.items():
        changed = {k: v for k, v in vars(module).items() if names.get(k) is not v}
        for name in changed:
            if name in names:
                setattr(module, name, names[name])
            else:
                delattr(module, name)
        functions = {k: _on_copies(v) for k, v in changed.items() if isinstance(v, FunctionType)}
        _let_see(causal, module, functions)


def _on_copies(rotate: Callable[..., Any]) -> Callable[..., Any]:
    """Liger rotates in place, where selective checkpointing keeps the result of a product."""

    @wraps(rotate)
    def run(query: Tensor, key: Tensor, *args: Any, **options: Any) -> Any:
        return rotate(query.clone(), key.clone(), *args, **options)

    return run


def _let_see(
    causal: transformers.PreTrainedModel, module: ModuleType, functions: Mapping[str, Any]
) -> None:
    """Let the layers of `causal` that `module` defines call `functions` instead of its own."""
    for part in causal.modules():
        own = type(part).forward
        if own.__globals__ is not vars(module) or not functions.keys() & set(own.__code__.co_names):
            continue
        seen = {**vars(module), **functions}
        forward = FunctionType(own.__code__, seen, own.__name__, own.__defaults__, own.__closure__)
        forward.__kwdefaults__ = own.__kwdefaults__
        part.forward = MethodType(forward, part)
