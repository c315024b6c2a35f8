"""Loads models from safetensors only, and runs no code of theirs unless the user allows it.

Pickled weights (*.bin, *.pt) are refused, since reading a pickle can run arbitrary code.
"""

import re
from pathlib import Path
from typing import Any

from malt_fast.utils.errors import MaltError, first_line


def load_model_config(base: str, trust_remote_code: bool = False) -> Any:
    """The config of a base model. Raises MaltError if it cannot be loaded."""
    from transformers import AutoConfig

    try:
        # False rather than None, for which transformers would prompt the user and run the code
        return AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise refusal(base, error) from None


def load_causal(base: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """A base model. options: of from_pretrained. Raises MaltError if it cannot be loaded."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            base, use_safetensors=True, trust_remote_code=trust_remote_code, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise refusal(base, error) from None


def refusal(base: str, error: Exception) -> MaltError:
    """The error for a base model that cannot be loaded."""
    if "trust_remote_code" in str(error):
        return MaltError(
            f"the model '{base}' has code of its own, which is not run by default: read it and "
            "give --model.trust_remote_code true, or choose another model by --model.name_or_path"
        )
    if re.search(r"file named \S*safetensors", str(error)):
        return MaltError(
            f"the model '{base}' cannot be loaded: it has no *.safetensors, and pickled weights "
            "can run code; save it again with safe_serialization, or choose another"
        )
    return MaltError(
        f"the model '{base}' cannot be loaded ({first_line(error)}): check --model.name_or_path"
    )


def check_adapter(folder: str | Path) -> None:
    """Raises MaltError for a folder that is not a PEFT adapter, and for pickled weights."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if Path(folder, name).is_file():
            continue
        if Path(folder, "adapter_model.bin").is_file():
            raise MaltError(
                f"the adapter '{folder}' cannot be loaded: adapter_model.bin is a pickle, which "
                "can run code; save it again as safetensors with PEFT's save_pretrained"
            )
        raise MaltError(f"'{folder}' is not an adapter: it has no {name}")
