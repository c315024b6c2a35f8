"""A base model with its loaded adapters.

In half precision on a CPU a pass can have rows of several adapters, if these are plain LoRA
(mixed.py). Otherwise one adapter is active at a time. It is merged into float32 weights: a small
model runs twice as fast without LoRA's side branches, at the rounding of float32. The original
weights are copied before and put back after, so the base stays the same to the bit. In half
precision and in quantised layers a merge would round the adapter away, so there the side branches
run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from malt_fast.engines.decode_attention import Reads, attend
from malt_fast.engines.mixed import Mixed, can_mix
from malt_fast.engines.reordered import reorder
from malt_fast.models.adapter_files import no_adapter
from malt_fast.models.context import context_length, window_of
from malt_fast.models.loading import check_adapter, load_causal
from malt_fast.models.supported import check_layers
from malt_fast.models.tree_attention import Tree, tree_attention
from malt_fast.utils.errors import MaltError
from malt_fast.utils.quiet import quiet

AS_MODEL = {"autocast_adapter_dtype": False}  # beside bfloat16, float32 matrices double a pass


class Weights:
    """One base model on one device; call `model`."""

    @torch.inference_mode(False)  # PEFT sets requires_grad
    def __init__(
        self, base: str, dtype: str, device: torch.device, trust_remote_code: bool = False
    ) -> None:
        self.base = base
        self.model = _load(base, dtype, trust_remote_code).to(device)
        if device.type == "cpu":
            reorder(self.model)
        self.context = context_length(self.model.config)
        self.vocabulary = int(self.model.get_input_embeddings().num_embeddings)
        self.peft: Any = None  # the PeftModel around `model`, once there is an adapter
        self.names: dict[str, str] = {}  # adapter directory -> PEFT's name
        self.saved: list[tuple[Tensor, Tensor]] = []  # (merged weight, its base values)
        self.active: str | None = None
        self.mixed = Mixed()
        self.mixing = False  # whether its rows are told by `answer`
        half = self.model.dtype != torch.float32
        self.mixable: dict[str | None, bool] = {None: half and device.type == "cpu"}

    def load(self, adapter: str | None) -> None:
        """Load an adapter before its first use."""
        if not self.mixes(adapter) and adapter is not None and adapter not in self.names:
            self._add(adapter)

    def mixes(self, adapter: str | None) -> bool:
        """Whether rows of this adapter may be in a pass with others; it is loaded for that."""
        if adapter is None or not self.mixable[None]:
            return self.mixable[None]
        if adapter not in self.mixable:
            self._add(adapter)
            self.mixable[adapter] = can_mix(self.peft, self.names[adapter])
            if self.mixable[adapter]:
                self.mixed.adopt(self.peft, self.names[adapter])
        return self.mixable[adapter]

    def mix(self) -> None:
        """Let `answer` say which rows of a pass are whose."""
        self.switch(None)
        self.mixing = True

    def answer(self, adapters: Sequence[str | None]) -> None:
        """The adapter of each row (token) of the next forward pass, after `mix`."""
        if self.mixing:
            owner = [None if adapter is None else self.names[adapter] for adapter in adapters]
            self.mixed.answer(owner)

    @torch.inference_mode(False)
    def switch(self, adapter: str | None) -> None:
        """Make `model` the base with `adapter`, or the bare base."""
        self.mixing, self.mixed.rows = False, None
        if adapter == self.active:
            return
        self._restore()
        self.active = ""  # none, if the rest fails
        if adapter is not None:
            self._activate(adapter)
        elif self.peft is not None:
            self.peft.base_model.disable_adapter_layers()
        self.active = adapter

    def _activate(self, adapter: str) -> None:
        if adapter not in self.names:
            self._add(adapter)
        self.peft.base_model.enable_adapter_layers()
        self.peft.set_adapter(self.names[adapter], inference_mode=True)
        self._merge(self.names[adapter])

    @torch.inference_mode(False)
    def _add(self, adapter: str) -> None:
        from peft import PeftConfig, PeftModel

        check_adapter(adapter)
        name = f"adapter{len(self.names)}"
        try:
            prompts = PeftConfig.from_pretrained(adapter).is_prompt_learning
            if not prompts and self.peft is None:
                self.peft = PeftModel.from_pretrained(self.model, adapter, name, **AS_MODEL)
            elif not prompts:
                self.peft.load_adapter(adapter, name, **AS_MODEL)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # PEFT, safetensors and torch raise many kinds
            raise no_adapter(adapter, error) from None
        if prompts:
            raise MaltError(f"the adapter '{adapter}' learns a prompt: the hf engine needs LoRA")
        self.names[adapter] = name
        if self.active is None:  # PEFT activates its first adapter
            self.peft.base_model.disable_adapter_layers()
        self.model.eval()

    def _merge(self, name: str) -> None:
        """Add the adapter to its base weights where they are float32 and not tied to other layers.

        A layer may be wrapped twice, once per weight (experts): each weight is saved once.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        heads = (self.model.get_input_embeddings(), self.model.get_output_embeddings())
        tied = {head.weight.data_ptr() for head in heads if head is not None}
        kept = set[int]()
        for layer in self.model.modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            own = list(layer.get_base_layer().parameters())
            if all(map(_is_float32, own)) and tied.isdisjoint(w.data_ptr() for w in own):
                new = [weight for weight in own if id(weight) not in kept]
                kept.update(map(id, new))
                self.saved += [(weight, weight.detach().clone()) for weight in new]
                layer.merge(adapter_names=[name])

    def _restore(self) -> None:
        """Restore the base values, and note in PEFT's layers that nothing is merged."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for weight, base in self.saved:
            weight.data.copy_(base)
        self.saved = []
        for layer in self.model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.merged_adapters.clear()


def _is_float32(weight: Tensor) -> bool:
    """Whether a weight is plain float32: quantised ones are a class of their own."""
    return type(weight) is torch.nn.Parameter and weight.dtype == torch.float32


def _load(base: str, dtype: str, trust_remote_code: bool) -> Any:
    """The causal model in evaluation mode, with attention that does not repeat keys per head."""
    with quiet():
        model = load_causal(base, trust_remote_code, dtype=getattr(torch, dtype))
    check_layers(base, model.config)
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_register_attention())
    elif window_of(model.config) is not None:
        raise MaltError(
            f"the hf engine cannot keep to the sliding window of '{base}': choose another model, "
            "or sample with --engine.name vllm"
        )
    return model.eval()


def reads_tries(model: Any, depth: int) -> bool:
    """Whether the model can read tries whose longest path has `depth` tokens, on its device."""
    on_cpu, window = model.device.type == "cpu", window_of(model.config)
    fits = window is None or depth <= window
    return on_cpu and fits and model.config._attn_implementation == "malt_grouped"


def _register_attention() -> str:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("malt_grouped", _grouped_attention)
    AttentionMaskInterface.register("malt_grouped", sdpa_mask)
    return "malt_grouped"


def _grouped_attention(
    module: torch.nn.Module,
    query: Tensor,  # [B, H, Q, D]
    key: Tensor,  # [B, H / G, K, D]
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    tree: Tree | None = None,
    tree_rows: Tensor | None = None,
    reads: Reads | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA; for a single query token, the G query heads of a key head become its G queries.

    tree: of a pass over a trie, for whose keys tree_rows are the rows that ask. reads: of decoded
    rows, on a CPU.
    """
    if tree is not None:
        asking = query.new_zeros(1, query.shape[1], key.shape[2], query.shape[3])
        asking[:, :, tree_rows] = query
        out, _ = tree_attention(module, asking, key, value, None, scaling, tree=tree, **kwargs)
        return out[:, tree_rows], None
    if reads is not None:
        cap = kwargs.get("softcap")
        return attend(query, key, value, reads, scaling, cap, sliding_window), None
    if query.shape[2] == 1 and attention_mask is not None and sliding_window is not None:
        attention_mask = _narrowed(attention_mask, sliding_window)
    if kwargs.get("softcap"):
        return _capped(query, key, value, attention_mask, scaling, kwargs["softcap"])
    if query.shape[2] > 1:
        sdpa: Callable = _sdpa()
        return sdpa(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    batch, heads, _, width = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, width)
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return out.reshape(batch, 1, heads, -1), None


def _narrowed(mask: Tensor, window: int) -> Tensor:
    """A decoding mask [B, 1, 1, K] (see mask_of) that leaves each row its last `window` columns.

    Prefills come with the mask that transformers made, window and all.
    """
    if mask.shape[-1] <= window:
        return mask
    length = (mask == 0).sum(-1, keepdim=True)
    columns = torch.arange(mask.shape[-1], device=mask.device)
    return mask.masked_fill(columns < length - window, -torch.inf)


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    cap: float,
) -> tuple[Tensor, None]:
    """With Gemma 2's cap on scores, which SDPA does not know; no mask means causal."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = cap * torch.tanh(query @ key.mT * (scale / cap))
    if attention_mask is None:
        attention_mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    if attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    else:
        scores = scores + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2), None


def _sdpa() -> Callable:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward
