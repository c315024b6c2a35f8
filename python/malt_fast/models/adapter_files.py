"""What the files of a PEFT adapter tell without loading it: its rank, its content, its effect."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from malt_fast.models.identity import adapter_identity
from malt_fast.utils.errors import MaltError, first_line


def config_of(adapter: str) -> dict[str, Any]:
    """adapter_config.json. Raises MaltError for a folder without a readable one."""
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
    """What is told of an adapter that PEFT, or the disk, refuses."""
    strange = isinstance(error, AttributeError)  # a setting that PEFT takes for something else
    reason = "its settings are not PEFT's" if strange else first_line(error)
    return MaltError(
        f"the adapter '{adapter}' cannot be loaded ({reason}): it is damaged or of another base "
        "model; train the role again"
    )


def rank_of(adapter: str) -> int:
    """Its largest LoRA rank; 1 for an adapter of another kind."""
    values = config_of(adapter)
    return max([int(values.get("r", 1)), *map(int, (values.get("rank_pattern") or {}).values())])


def content_name(adapter: str) -> str:
    """A name that changes with the weights: `refiner-final-0123456789abcdef`."""
    folder = Path(adapter)
    return f"{folder.parent.name}-{folder.name}-{adapter_identity(adapter)[:16]}"


def is_untrained(adapter: str) -> bool:
    """Whether its B matrices are all zero, so that it is meant to change nothing."""
    return _is_untrained(adapter, adapter_identity(adapter))


@lru_cache
def _is_untrained(adapter: str, content: str) -> bool:
    from safetensors import safe_open

    with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as weights:
        names = [name for name in weights.keys() if "lora_B" in name]  # noqa: SIM118, not a dict
        return not any(weights.get_tensor(name).any() for name in names)


def write_zeros(adapter: str, folder: Path) -> str:
    """Write an adapter shaped like another that changes nothing; `folder` as text."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config_of(adapter)), encoding="utf-8")
    weights = load_file(Path(adapter) / "adapter_model.safetensors")
    for weight in weights.values():
        weight.zero_()
    save_file(weights, folder / "adapter_model.safetensors")
    return str(folder)
