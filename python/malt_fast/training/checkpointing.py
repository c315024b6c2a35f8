"""Activation checkpointing: what the backward pass computes again, and the choice of it.

`auto` takes the first of none, selective and full whose estimate (activations.py) fits into the
free memory. All three give the same gradients, bit by bit where the device's operations repeat
themselves.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops import wrap
from torch.utils import checkpoint as torch_checkpoint
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from malt_fast.training.adapters import LogProbModel
from malt_fast.training.stage import METHODS, Method
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.memory import available_memory

SHARE = 0.8  # of the free memory that an estimate may take

# Before torch 2.13 compiled code may run as plain Python where layers are checkpointed selectively.
COMPILED = getattr(wrap, "inductor_compiled_code", None)
_mode = torch_checkpoint._CachingTorchDispatchMode
SEES_COMPILED = COMPILED is not None and bool(
    getattr(_mode, "ignore_compile_internals", lambda: False)()
)

_aten, _own = torch.ops.aten, torch.ops.malt_fast
PRODUCTS = {_aten.mm.default: 0, _aten.addmm.default: 1, _aten.bmm.default: 0}  # left operand
KEPT = {
    _own.lora_side_branch.default,
    _own.tree_attention.default,
    COMPILED,  # FlexAttention on a GPU
    torch.ops.higher_order.flex_attention,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def first_that_fits(estimates: Mapping[Method, int], free: int) -> Method:
    """The fastest method whose estimate fits; full if none does."""
    fit = [method for method in METHODS if estimates[method] <= SHARE * free]
    return fit[0] if fit else "full"


def free_memory(device: torch.device) -> int:
    """Bytes that training can get: of a GPU, or of the machine."""
    if device.type != "cuda":
        return available_memory()
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + unused)


# ---- switching it on ----


def checkpoint(
    model: LogProbModel, method: Method, forward: Callable[[], Tensor], *, may_change: bool
) -> Method:
    """Let the layers compute again in the backward pass what `method` does not keep.

    forward: of some batch. may_change: where the model does not support `method`, another is taken
    and returned; otherwise MaltError is raised.
    """
    supported: Method = method
    problem = ""
    if method != "none" and not model.peft_model.get_base_model().supports_gradient_checkpointing:
        supported, problem = "none", "its layers cannot compute their activations again"
    elif method == "selective":
        problem = _selective_problem(model, forward)
        supported = "full" if problem else method
    if problem and not may_change:
        raise MaltError(
            f"gradient_checkpointing = {method} does not go with this model ({problem}): "
            f"set it to {supported}"
        )
    switch(model, supported)
    return supported


def switch(model: LogProbModel, method: Method) -> None:
    """Let the layers of a model that supports `method` use it from now on."""
    options: dict[str, Any] = {"use_reentrant": False}
    if method == "selective":
        ranks = frozenset(config.r for config in model.peft_model.peft_config.values())
        options["context_fn"] = partial(
            create_selective_checkpoint_contexts, partial(_policy, ranks)
        )
    if method == "none":
        model.peft_model.gradient_checkpointing_disable()
    else:
        model.peft_model.gradient_checkpointing_enable(options)


def _policy(ranks: frozenset[int], context: Any, op: Any, *args: Any, **_: Any) -> CheckpointPolicy:
    """Keep products and attention, but for products over a LoRA rank, which are cheap and wide."""
    keep = op in KEPT
    if op in PRODUCTS:
        keep = args[PRODUCTS[op]].shape[-1] not in ranks
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _selective_problem(model: LogProbModel, forward: Callable[[], Tensor]) -> str:
    """Why the layers cannot be checkpointed selectively, or "": a backward pass is tried.

    Some models change results of products in place, which torch refuses.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if model.layout == "trees" and trained[0].is_cuda and not SEES_COMPILED:
        return "FlexAttention needs torch 2.13 for it"
    training = model.training
    switch(model.train(), "selective")
    try:
        with torch.random.fork_rng():
            torch.autograd.grad(forward().sum(), trained, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return first_line(error)
    finally:
        model.train(training)
    return ""
