"""Facts about a PEFT adapter, read from its files: rank, content, whether it has any effect."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from malt_fast.models.identity import adapter_identity
from malt_fast.utils.errors import MaltError, first_line


def config_of(adapter: str) -> dict[str, Any]:
    """The content of adapter_config.json. Raises MaltError if it cannot be read."""
    try:
        values: dict[str, Any] = json.loads(
            (Path(adapter) / "adapter_config.json").read_text(encoding="utf-8")
        )
    except (OSError, ValueError):
        raise MaltError(
            f"'{adapter}' is not an adapter: it has no readable adapter_config.json"
        ) from None
    return values


def no_adapter(adapter: str, error: Exception) -> MaltError:
    """The error for an adapter that cannot be read or that PEFT rejects."""
    strange = isinstance(error, AttributeError)  # PEFT met a setting of another type
    reason = "its settings are not PEFT's" if strange else first_line(error)
    return MaltError(
        f"the adapter '{adapter}' cannot be loaded ({reason}): it is damaged or of another base "
        "model; train the role again"
    )


def rank_of(adapter: str) -> int:
    """The largest LoRA rank of an adapter; 1 for an adapter of another kind."""
    values = config_of(adapter)
    return max([int(values.get("r", 1)), *map(int, (values.get("rank_pattern") or {}).values())])


def content_name(adapter: str) -> str:
    """A name that changes with the weights, such as `refiner-final-0123456789abcdef`."""
    folder = Path(adapter)
    return f"{folder.parent.name}-{folder.name}-{adapter_identity(adapter)[:16]}"


def is_untrained(adapter: str) -> bool:
    """Whether all B matrices are zero, so that the adapter has no effect."""
    return _is_untrained(adapter, adapter_identity(adapter))


@lru_cache
def _is_untrained(adapter: str, content: str) -> bool:
    from safetensors import safe_open

    with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as weights:
        names = [name for name in weights.keys() if "lora_B" in name]  # noqa: SIM118, not a dict
        return not any(weights.get_tensor(name).any() for name in names)


def write_zeros(adapter: str, folder: Path) -> str:
    """Write an adapter shaped like `adapter`, but without effect, to `folder`; returns `folder`."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config_of(adapter)), encoding="utf-8")
    weights = load_file(Path(adapter) / "adapter_model.safetensors")
    for weight in weights.values():
        weight.zero_()
    save_file(weights, folder / "adapter_model.safetensors")
    return str(folder)
