"""Which base models can be used, told from config.json alone, and whether weights fit a config."""

import re
from importlib.util import find_spec
from typing import Any

from malt_fast.utils.errors import MaltError
from malt_fast.utils.installing import install_command


def check_supported(base: str, config: Any) -> None:
    """Raises MaltError for a model that neither samples nor trains correctly here."""
    text = config.get_text_config()
    _check_quantised(base, getattr(config, "quantization_config", None) or {})
    if getattr(text, "alibi", False) or text.model_type == "bloom":
        raise MaltError(
            f"'{base}' has alibi instead of positions, which is not supported: choose another model"
        )
    if "local" in (getattr(text, "attention_layers", None) or ()):
        raise MaltError(
            f"'{base}' has the local attention of GPT-Neo, which is not supported: choose another "
            "model"
        )
    if text.model_type == "phimoe":
        raise MaltError(
            f"'{base}' draws its experts at random while it trains, so its log-probs are not those "
            "it samples with: choose another model"
        )


def check_layers(base: str, config: Any) -> None:
    """Raises MaltError for a model with layers that keep no keys and values of every token."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise MaltError(
            f"the hf engine cannot sample from '{base}': it has layers of type {min(unknown)}; "
            "choose a model with plain attention"
        )


def _check_quantised(base: str, stated: Any) -> None:
    """Raises MaltError for quantised weights under which no adapter can be trained here."""
    values = stated if isinstance(stated, dict) else stated.to_dict()
    method = values.get("quant_method", "")
    method = getattr(method, "value", method)
    if method and method != "bitsandbytes":
        raise MaltError(
            f"the weights of '{base}' are quantised by {method}, which is not supported: name the "
            "original model, or one quantised to 4 bits by bitsandbytes"
        )
    if values.get("load_in_8bit"):
        raise MaltError(
            f"the weights of '{base}' have 8 bits, and bitsandbytes rounds a row by the others of "
            "its batch: name the original model, or one quantised to 4 bits"
        )
    if method and find_spec(method) is None:
        raise MaltError(
            f"the weights of '{base}' are quantised by {method}, which is not installed: "
            f"{install_command('qlora')}"
        )


def check_weights(base: str, model: Any, found: dict[str, Any]) -> None:
    """Raises MaltError for weights that differ from what the config describes.

    found: the loading info of from_pretrained. transformers would draw missing weights at random
    and leave out those that the config has no place for. Parts that the model lacks as a whole,
    such as a vision tower beside a text model, may be left out.
    """
    if wrong := sorted(found["mismatched_keys"]):
        name, stored, wanted = wrong[0]
        what = f"{name} has the shape {list(stored)}, but config.json says {list(wanted)}"
    elif missing := sorted(found["missing_keys"]):
        what = f"{missing[0]} is missing{_more(missing)}"
    elif extra := sorted(key for key in found["unexpected_keys"] if _is_inside(key, model)):
        what = f"config.json has no place for {extra[0]}{_more(extra)}"
    else:
        return
    raise MaltError(
        f"config and weights of '{base}' do not belong together ({what}): get both from the same "
        "source again"
    )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _is_inside(key: str, model: Any) -> bool:
    """Whether a weight is of a part of the decoder that the model has, in this layer or another."""
    inner = set(model.get_decoder().modules()) - {model.get_decoder()}
    names = {name for name, module in model.named_modules() if module in inner}
    parts = re.sub(r"\.\d+(?=\.)", ".0", key).split(".")
    return any(".".join(parts[:i]) in names for i in range(1, len(parts)))
