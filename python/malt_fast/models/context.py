"""The context of a base model, from its config: what engines, trainer and checks agree on."""

from typing import Any

NONE = 1 << 30  # tokens: no limit


def context_length(config: Any) -> int:
    """Tokens of the longest sequence, prompt and output together."""
    return min(_limits(config).values(), default=NONE)


def context_setting(config: Any) -> str:
    """The name of the setting in config.json that limits the context."""
    limits = _limits(config)
    return min(limits, key=lambda name: limits[name], default="")


def window_of(config: Any) -> int | None:
    """Tokens that the layers with the narrowest sliding window see; None: no layer has one."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    window: int | None = getattr(text, "sliding_window", None)
    return window if kinds is None or "sliding_attention" in kinds else None


def _limits(config: Any) -> dict[str, int]:
    """The limits of a config by setting.

    With `longrope` transformers rotates every row of a batch by the factors of its longest one, and
    vLLM all sequences by those of the longest possible one. Up to the original context the short
    factors hold everywhere, so that a completion has one log-prob; longer sequences are not read.
    (The frequencies of `dynamic` change only beyond max_position_embeddings.)
    """
    text = config.get_text_config()
    limits = {"max_position_embeddings": getattr(text, "max_position_embeddings", None)}
    if any(rope.get("rope_type") == "longrope" for rope in _ropes(text)):
        name = "original_max_position_embeddings"
        limits[name] = min(rope[name] for rope in _ropes(text) if rope.get(name))
    return {name: limit for name, limit in limits.items() if limit}


def _ropes(text: Any) -> list[dict[str, Any]]:
    """The rope parameters: one dict, or one per type of layer."""
    stated = getattr(text, "rope_parameters", None) or {}
    return [stated] if "rope_type" in stated else [r for r in stated.values() if r]
