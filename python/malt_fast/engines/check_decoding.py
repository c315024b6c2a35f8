"""A test of every model that the hf engine loads: rows decoded from the cache are plain forwards.

A family whose positions, masks or cache differ from the usual ones would sample wrongly, or raise
an error after hours. Two rows of different length tell.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from malt_fast.engines.cache import Plan, SlotCache
from malt_fast.engines.decode_attention import NO_MASK, Reads, mask_of
from malt_fast.engines.weights import reads_tries
from malt_fast.utils.errors import MaltError, first_line

LENGTHS = (2, 5)  # tokens before the one that is decoded
EXACT, ROUNDED = 1e-3, 0.05  # of the largest logit, in float32 and in 16 bits


@torch.inference_mode()
def check_decoding(base: str, model: Any) -> None:
    """Raises MaltError for a model whose decoded rows differ from plain forwards."""
    ids = torch.arange(1, max(LENGTHS) + 2, device=model.device)[None].repeat(len(LENGTHS), 1)
    ids %= model.get_input_embeddings().num_embeddings
    try:
        found = _decoded(model, ids)
        rows = [model(input_ids=ids[:1, : n + 1], use_cache=False).logits[0, -1] for n in LENGTHS]
    except torch.OutOfMemoryError:  # told where rows are decoded
        return
    except Exception as error:  # models raise errors of many kinds
        raise MaltError(
            f"the hf engine cannot sample from '{base}' ({first_line(error)}): choose another "
            "model, or sample with --engine.name vllm"
        ) from None
    plain = torch.stack(rows).float()
    tolerance = EXACT if model.dtype == torch.float32 else ROUNDED
    if (found - plain).abs().max() > tolerance * plain.abs().max():  # never of logits that are nan
        raise MaltError(
            f"the hf engine cannot sample from '{base}': its positions or masks are not the usual "
            "ones; choose another model, or sample with --engine.name vllm"
        )


def _decoded(model: Any, ids: Tensor) -> Tensor:
    """float32 [rows, V]: logits after token LENGTHS[i] of each row, as Batch computes them."""
    device, n, width = ids.device, len(ids), ids.shape[1]
    cache = SlotCache(model.config.get_text_config().num_hidden_layers)
    slots, length = torch.arange(n, device=device), torch.tensor(LENGTHS, device=device)
    cache.plan = Plan(slots, None, slots, n, width)
    run: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    positions = torch.arange(width - 1, device=device)[None]
    model(input_ids=ids[:, :-1], position_ids=positions, attention_mask=None, **run)
    cache.plan = Plan(slots, length, None, n, width)
    # In 16 bits by the arithmetic of the plain forwards: some models blow up another's rounding.
    if reads_tries(model, 0) and model.dtype == torch.float32:
        nothing = np.zeros(n, np.int32)
        reads = Reads(np.array(LENGTHS, np.int32) + 1, nothing, nothing)
        run |= {"attention_mask": NO_MASK, "reads": reads}
    else:
        run["attention_mask"] = mask_of(length, width, model.dtype)
    ids, positions = ids[slots, length][:, None], length[:, None]
    logits: Tensor = model(input_ids=ids, position_ids=positions, **run).logits
    return logits[:, -1].float()
