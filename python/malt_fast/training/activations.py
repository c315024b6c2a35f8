"""Estimates of the memory that training a role takes beside its frozen weights.

A layer keeps activations from its forward to its backward pass. Which ones follows from how layers
are written in transformers and PEFT, and what autograd saves of them; the weights of a layer are
frozen, so a product keeps its input only for the gradient of LoRA's A. Per token:

    none        everything below
    selective   the layer's input, and the results of products and attention; the rest of one layer
                at a time is computed again
    full        the layer's input; the rest of one layer at a time is computed again
"""

from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import nn

from malt_fast.training.adapters import LogProbModel, has_fast_lora
from malt_fast.training.stage import METHODS, Method

FLOAT = 4  # bytes
HEAD = 64 * 2**20  # bytes of a tile of logits with its operands, on a GPU


@dataclass(frozen=True)
class Shape:
    """Widths of a decoder's layers and of its adapter, averaged over the layers."""

    layers: int
    hidden: int
    query: int  # of all heads; their output is as wide
    key: int  # of all key heads; values are as wide
    inner: int  # of the MLP
    heads: int
    norms: int  # of all inputs of norms
    outputs: int  # of all products with frozen weights
    adapted: int  # of all inputs of adapted products
    narrow: int  # LoRA ranks of all adapted products
    trained: int  # weights of the adapter
    frozen: int  # weights of the products of all layers, unless they are in 4 bits
    outside: int  # weights of the embedding and the head
    vocabulary: int


@dataclass(frozen=True)
class Precision:
    """Bytes of a number."""

    weight: int  # of base weights, and of the stream of hidden states between layers
    result: int  # of a product
    attention: int  # of query, key and value in the attention
    copy: int  # of the input that an adapted product keeps for itself; 0: products share inputs
    fused: bool = False  # Liger's norms keep inputs as they come, its MLPs no activation


def precision_of(model: LogProbModel, bf16: bool) -> Precision:
    """bf16: autocast."""
    embedding = model.peft_model.get_input_embeddings().weight
    weight: int = embedding.element_size()
    result = 2 if bf16 else weight
    # packs are attended to in float32 on a CPU
    attention = FLOAT if model.layout == "trees" and embedding.device.type == "cpu" else result
    # PEFT casts an input to float32, where A is, and autocast casts that to bfloat16; `lora_linear`
    # keeps an input as it comes, unless it must cast it itself
    comes_in = torch.bfloat16 if bf16 else torch.float32
    shared = has_fast_lora(model, bf16) and embedding.dtype == comes_in
    copy = 0 if shared else 2 if bf16 else FLOAT
    return Precision(weight, result, attention, copy, model.fused)


def shape_of(peft_model: peft.PeftModel) -> Shape:
    """The shape of a decoder under its adapter, from its config and its modules."""
    causal = peft_model.get_base_model()
    decoder, config = causal.get_decoder(), causal.config.get_text_config()
    layers, heads = config.num_hidden_layers, _mean(config, "num_attention_heads", 1)
    head = _mean(config, "head_dim", config.hidden_size // heads)
    key_heads = _mean(config, "num_key_value_heads", heads)
    modules = list(decoder.modules())
    adapted = [m for m in modules if isinstance(m, peft.tuners.lora.LoraLayer)]
    inside = {id(part) for m in adapted for part in (*m.lora_A.values(), *m.lora_B.values())}
    products: list[Any] = [m for m in modules if isinstance(m, nn.Linear) and id(m) not in inside]
    trained = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    embedding, output = causal.get_input_embeddings().weight, causal.get_output_embeddings().weight
    return Shape(
        layers=layers,
        hidden=config.hidden_size,
        query=heads * head,
        key=key_heads * head,
        inner=_inner(config),
        heads=heads,
        norms=sum(_norm_width(m, head, heads + key_heads) for m in modules) // layers,
        outputs=sum(m.out_features for m in products) // layers,
        adapted=sum(m.in_features for m in adapted) // layers,
        narrow=sum(sum(m.r.values()) for m in adapted) // layers,
        trained=trained,
        frozen=sum(m.in_features * m.out_features for m in products if type(m) is nn.Linear),
        outside=embedding.numel() + (0 if output is embedding else output.numel()),
        vocabulary=len(output),
    )


def _mean(config: Any, name: str, default: int) -> int:
    """A width, averaged over the layers: those of some models differ."""
    layers = getattr(config, "per_layer_config", [config])  # transformers 5.12 has none
    values = [getattr(layer, name, None) or default for layer in layers]
    return sum(values) // len(values)


def _inner(config: Any) -> int:
    """Width of a token's MLP; of all the experts that it goes through."""
    dense = _mean(config, "intermediate_size", 4 * config.hidden_size)
    experts = getattr(config, "num_experts_per_tok", None)
    return int(experts) * _mean(config, "moe_intermediate_size", dense) if experts else dense


def _norm_width(module: nn.Module, head: int, heads: int) -> int:
    """Width of a norm's input; a norm of single heads is called on all of them."""
    weight = getattr(module, "weight", None)
    if "Norm" not in type(module).__name__ or not isinstance(weight, torch.Tensor):
        return 0
    width = weight.numel()
    return width * heads // 2 if width == head else width  # one for queries, one for keys


def token_bytes(shape: Shape, precision: Precision) -> dict[Method, int]:
    """Bytes that one layer keeps of one token."""
    s, p = shape, precision
    attended = p.attention * s.query + FLOAT * s.heads  # its result, and the sums of exponentials
    narrow = (FLOAT if p.result == FLOAT or p.copy == FLOAT else 2) * s.narrow  # x A^T
    # Each adapted product keeps an own copy of its input; or q, k, v share theirs, and gate, up do,
    # and o's is the result of attention unless that is cast
    cast = s.query if p.attention != p.result else 0
    inputs = p.copy * s.adapted or p.result * (2 * s.hidden + s.inner + cast)
    norm, gates = (p.weight, 2) if p.fused else (FLOAT, 3)
    everything = (
        norm * s.norms  # float32, in which transformers' norms compute
        + inputs
        + p.attention * (s.query + 2 * s.key)  # query and key after their rotation, value
        + attended
        + p.result * gates * s.inner  # gate, its activation, up
        + narrow
    )
    stream = p.weight * s.hidden  # the input of the layer
    products = p.result * s.outputs + attended + narrow
    return {"none": everything, "selective": stream + products, "full": stream}


def training_bytes(
    shape: Shape, precision: Precision, tokens: int, *, gathered: bool = False
) -> dict[Method, int]:
    """Bytes of a step beside the frozen weights, at the longest batch: `tokens` with padding.

    gathered: weights are sharded, and gathered layer by layer (FSDP).
    """
    s, p = shape, precision
    layer = token_bytes(s, p)
    always = 4 * FLOAT * s.trained  # gradients, two moments, and casts or scaled copies
    if gathered:
        always += p.weight * (s.outside + 2 * s.frozen // s.layers)
    # Casts of float32 weights under autocast are kept for the gradients of the products' inputs
    casts = p.result * s.frozen if p.result < p.weight else 0
    kept = {method: s.layers * tokens * layer[method] for method in METHODS}
    kept["none"] += casts
    again = tokens * layer["none"] + casts // s.layers  # a layer that is computed again
    # ... in part: the results of gate, up and attention are there already
    there = tokens * (2 * p.result * s.inner + p.attention * s.query)
    made: dict[Method, int] = {"none": 0, "selective": again - min(there, again), "full": again}
    # Beside activations the backward pass holds gradients of one MLP's parts, and before that what
    # the head takes (linear_logprob.py): its input, the last norm's, gradients, a tile of logits
    gradient = FLOAT if p.copy else p.result  # of what an adapted product takes
    mlp = tokens * gradient * (s.inner + 2 * s.hidden)
    head = tokens * s.hidden * (3 * p.weight + FLOAT)
    head += min(HEAD, 2 * FLOAT * tokens * s.vocabulary)
    return {m: always + kept[m] + max(head, mlp + made[m]) for m in METHODS}
