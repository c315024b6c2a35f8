"""A frozen base model under a LoRA adapter: the adapted layers, loading, log-probs, saving."""

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from malt_fast.config.schema import LoraConfig
from malt_fast.kernels import linear_logprob, lora_linear
from malt_fast.models.adapter_files import no_adapter
from malt_fast.models.loading import check_adapter, load_causal, load_model_config
from malt_fast.models.saving import saving
from malt_fast.models.tree_attention import (
    BLOCK,
    TREE,
    Tree,
    make_tree,
)
from malt_fast.training.packing import Batch
from malt_fast.training.stage import Layout
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.files import replacing_folder
from malt_fast.utils.seals import seal

log = logging.getLogger(__name__)

FILES = ("adapter_config.json", "adapter_model.safetensors")  # that make up an adapter


class LogProbModel(nn.Module):
    """A PEFT causal LM whose forward returns log-probs of target tokens; DDP wraps it whole."""

    accepts_loss_kwargs = True  # for Trainer: losses are already divided by the step's items

    def __init__(self, peft_model: peft.PeftModel) -> None:
        super().__init__()
        self.peft_model = peft_model
        base = peft_model.get_base_model()
        self._no_split_modules = getattr(base, "_no_split_modules", None)  # FSDP's units: layers
        config = base.config.get_text_config()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        self.scale = _logit_scale(config)
        self.layout: Layout = "rows"  # of the batches it takes
        self.fused = False  # whether norms, rotary embeddings and MLPs are Liger's

    def hidden(
        self, input_ids: Tensor, position_ids: Tensor | None = None, tree: Tree | None = None
    ) -> Tensor:
        """What the head maps to logits [B, L, H]. Needs no mask: padding is on the right."""
        decoder = self.peft_model.get_base_model().get_decoder()
        packed = {} if tree is None else {"position_ids": position_ids, "tree": tree}
        output: Tensor = decoder(input_ids=input_ids, use_cache=False, **packed).last_hidden_state
        return output if self.scale == 1 else output * self.scale

    def forward(self, batch: Batch) -> Tensor:
        """float32 [M]: log-prob of targets[m] after position rows[m] of the flattened input_ids."""
        head = self.peft_model.get_base_model().get_output_embeddings()
        hidden = self.hidden(batch.input_ids, batch.position_ids, batch.tree).flatten(0, 1)
        return linear_logprob(
            hidden,
            head.weight,
            batch.rows,
            batch.targets,
            bias=head.bias,
            logit_softcap=self.softcap,
            plan=batch.plan,
            check=False,  # data is checked once, before training
        )


def _logit_scale(config: Any) -> float:
    """What logits are multiplied by: of Cohere and Granite."""
    return float(getattr(config, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1))


def load_model(
    base: str,
    init_adapter: Path | None,
    lora: LoraConfig,
    *,
    dtype: str,
    seed: int,
    layout: Layout = "rows",
    four_bit_on: torch.device | None = None,
    trust_remote_code: bool = False,
) -> LogProbModel:
    """`base`, frozen, under a trainable copy of `init_adapter` or a fresh seeded LoRA.

    layout: of the batches it should take; `layout` of the result tells whether it does, since some
    models cannot read packs. four_bit_on: for QLoRA, the device of the 4-bit base weights. Raises
    MaltError for a model that cannot be trained.
    """
    config = load_model_config(base, trust_remote_code)
    quantised: dict[str, Any] = {}
    if four_bit_on is not None:
        quantised = {"quantization_config": _four_bit(dtype), "device_map": {"": four_bit_on}}
    causal = load_causal(
        base,
        trust_remote_code,
        dtype=getattr(torch, dtype),
        attn_implementation="eager" if _caps_scores(config) else None,
        **quantised,
    )
    if init_adapter is not None:
        check_adapter(init_adapter)
    torch.manual_seed(seed)  # the A matrices of a fresh adapter are random
    try:
        if init_adapter is None:
            peft_model = peft.get_peft_model(causal, _peft_config(lora, causal))
        else:
            peft_model = _with_adapter(causal, str(init_adapter))
    except (OSError, ValueError) as error:
        raise MaltError(
            f"the adapter does not fit '{base}' ({first_line(error)}): check lora.target_modules"
        ) from None
    model = LogProbModel(peft_model)
    _check_head(model)
    if layout == "trees":
        if problem := _pack_problem(model):
            log.warning("%s cannot be trained on packs (%s), so on rows", base, problem)
        else:
            model.layout = "trees"
    return model


def _with_adapter(causal: Any, adapter: str) -> peft.PeftModel:
    try:
        return peft.PeftModel.from_pretrained(causal, adapter, is_trainable=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # PEFT, safetensors and torch raise errors of many kinds
        raise no_adapter(adapter, error) from None


def _four_bit(dtype: str) -> transformers.BitsAndBytesConfig:
    """QLoRA (arXiv 2305.14314): 4-bit NormalFloat with double quantisation."""
    computed = getattr(torch, dtype)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed,
        bnb_4bit_quant_storage=computed,  # FSDP2 shards floats only
    )


def _caps_scores(config: Any) -> bool:
    """Whether attention scores are soft-capped (Gemma 2), which transformers' SDPA ignores."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def save_adapter(model: LogProbModel, folder: Path, *, write: bool = True) -> None:
    """Write the adapter in PEFT's format, which `vllm serve --enable-lora` reads too.

    Every process calls this, since each holds shards; only those with `write` write.
    """
    peft_model = model.peft_model
    trained = {n: p.detach() for n, p in peft_model.named_parameters() if p.requires_grad}
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in trained.items()}
    if write:
        peft_model.save_pretrained(str(folder), state_dict=whole, save_embedding_layers=False)


def load_adapter(model: LogProbModel, folder: Path) -> None:
    """Copy saved weights into the adapter of `model`, sharded like its own."""
    weights = load_file(folder / "adapter_model.safetensors")
    for name, parameter in model.peft_model.named_parameters():
        if not parameter.requires_grad:
            continue
        value = weights[name.replace(".default.", ".")].to(parameter.device)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        parameter.data.copy_(value)


def replace_adapter(model: LogProbModel, out: Path, note: str, *, write: bool = True) -> None:
    """Save the adapter to `out`, completely or not at all, and seal it with `note` (seals.py).

    Every process calls this, as save_adapter.
    """
    if not write:
        save_adapter(model, out, write=False)
        return
    with saving(out), replacing_folder(out) as folder:
        save_adapter(model, folder)
        seal(folder, note, FILES)


def disable_dropout(model: nn.Module) -> None:
    """Make a forward pass in training the same as in evaluation.

    Dropout and jitter are modules, or numbers of modules and configs that are given to functions.
    """
    modules: list[Any] = list(model.modules())
    configs = {id(m.config): m.config for m in modules if hasattr(m, "config")}
    for holder in (*modules, *configs.values()):
        if isinstance(holder, nn.Dropout):
            holder.p = 0.0
        for name, value in list(vars(holder).items()):
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(holder, name, 0.0)


def speed_up_lora(model: LogProbModel) -> None:
    """Let layers run as the fused `lora_linear`, in float32 or under bfloat16 autocast."""
    layers = [m for m in model.modules() if isinstance(m, peft.tuners.lora.Linear)]
    for layer in layers:
        other = layer.lora_bias["default"] or layer.lora_variant  # a variant such as DoRA
        if type(layer.base_layer) is nn.Linear and not other:
            layer.forward = partial(_lora_forward, layer, layer.forward)


def has_fast_lora(model: LogProbModel, bf16: bool) -> bool:
    """Whether layers run as `lora_linear` when the model is trained; bf16: under autocast."""
    low = torch.bfloat16 if bf16 else None
    return any(
        isinstance(module.forward, partial)
        and module.forward.func is _lora_forward
        and not _dropout(module)
        and _is_served(module, low)
        for module in model.modules()
        if isinstance(module, peft.tuners.lora.Linear)
    )


def _lora_forward(module: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    device = x.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    dropped = module.training and _dropout(module)
    if module.disable_adapters or dropped or not _is_served(module, low):
        return plain(x)
    base, scaling = module.base_layer, module.scaling["default"]
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    return lora_linear(x, base.weight, base.bias, a, b, scaling)


def _dropout(module: Any) -> float:
    return float(getattr(module.lora_dropout["default"], "p", 0.0))


def _is_served(module: Any, low: torch.dtype | None) -> bool:
    """Whether `lora_linear` computes in a layer's precision; low: what autocast casts to."""
    if low is None:
        return bool(module.base_layer.weight.dtype == torch.float32)
    return low == torch.bfloat16


def _peft_config(lora: LoraConfig, causal: Any) -> peft.LoraConfig:
    beside = "|".join(map(re.escape, _parts_beside_text(causal)))
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        exclude_modules=rf"({beside})(\..*)?" if beside else None,
        use_rslora=lora.use_rslora,
    )


def _parts_beside_text(causal: Any) -> list[str]:
    """Names of the modules beside the text model and its head, such as a vision tower."""
    decoder, head = causal.get_decoder(), causal.get_output_embeddings()
    around = {name for name, module in causal.named_modules() if decoder in module.modules()}
    text = {*decoder.modules(), head}
    return [
        name
        for name, module in causal.named_modules()
        if name.rpartition(".")[0] in around and name not in around and module not in text
    ]


def _check_head(model: LogProbModel) -> None:
    """Raises MaltError for a head that `linear_logprob` does not compute: adapted, or scaled."""
    causal = model.peft_model.get_base_model()
    head, embedding = causal.get_output_embeddings(), causal.get_input_embeddings()
    if isinstance(head, BaseTunerLayer) or isinstance(embedding, BaseTunerLayer):
        raise MaltError(
            "LoRA on lm_head or embed_tokens is not supported: leave it out of lora.target_modules"
        )
    model.eval()  # with dropout, two forwards differ
    ids = torch.arange(min(8, len(head.weight)), device=head.weight.device)[None]
    with torch.no_grad():
        logits = causal(input_ids=ids, use_cache=False).logits.float()
        ours = nn.functional.linear(model.hidden(ids), head.weight, head.bias).float()
    if model.softcap:
        ours = model.softcap * torch.tanh(ours / model.softcap)
    if not logits.isfinite().all():
        raise MaltError(
            f"the logits of {type(causal).__name__} are not finite: its weights or its adapter "
            "are damaged, or too large for model.dtype"
        )
    if (ours - logits).abs().max() > 0.02 * logits.abs().max():
        raise MaltError(
            f"the head of {type(causal).__name__} is more than a linear map and a soft cap, "
            "which is not supported: use another base model"
        )


def _pack_problem(model: LogProbModel) -> str:
    """Switch attention to TREE; why packs cannot be read, with attention as it was, or ""."""
    causal = model.peft_model.get_base_model()
    text, before = causal.config.get_text_config(), causal.config._attn_implementation
    if getattr(text, "attention_dropout", 0) or getattr(text, "attn_pdrop", 0):
        return "its attention has dropout"
    try:
        apart = _keeps_apart(model)
    except (ValueError, TypeError, AttributeError) as error:
        problem = first_line(error)
    else:
        problem = "" if apart else "branches see each other, or positions are counted otherwise"
    if problem:
        causal.set_attn_implementation(before)
    return problem


@torch.no_grad()
def _keeps_apart(model: LogProbModel) -> bool:
    """Switch attention to TREE; whether siblings of a pack then do not see each other."""
    causal = model.peft_model.get_base_model()
    device = next(causal.parameters()).device
    model.eval()
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5]], device=device)
    alone = model.hidden(ids)
    rows = [0, 1, 2, 3, 6, 7]  # of the flattened ids: the shared prefix once
    padding = BLOCK - len(rows)  # trees of one token, to fill a block
    end = np.append([6, 6, 4, 4, 6, 6], np.arange(len(rows) + 1, BLOCK + 1)).astype(np.int32)
    position = torch.tensor([[0, 1, 2, 3, 2, 3] + padding * [0]], device=device)
    tree = make_tree(end, 4, device.type).to(device)
    pack = nn.functional.pad(ids.flatten()[rows], (0, padding))[None]
    causal.set_attn_implementation(TREE)
    packed = model.hidden(pack, position, tree)[0, : len(rows)]
    alone = alone.flatten(0, 1)[rows]
    tolerance = 1e-4 if alone.dtype == torch.float32 else 0.05
    return bool((packed - alone).abs().max() <= tolerance * alone.abs().max())
