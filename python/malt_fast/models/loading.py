"""Models and adapters are loaded from safetensors, and run no code of their own unless asked to.

Pickled weights (*.bin, *.pt) are refused, since reading a pickle may run whatever its writer wants.
"""

import re
from pathlib import Path
from typing import Any

from malt_fast.utils.errors import MaltError, first_line


def load_config(base: str, trust_remote_code: bool = False) -> Any:
    """The base model's config, without its weights."""
    from transformers import AutoConfig

    try:
        # False and not None, with which transformers would ask for a `y` and run the code.
        return AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise refusal(base, error) from None


def load_causal(base: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """The base model."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            base, use_safetensors=True, trust_remote_code=trust_remote_code, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise refusal(base, error) from None


def refusal(base: str, error: Exception) -> MaltError:
    """What a user can do about a base model that cannot be loaded."""
    if "trust_remote_code" in str(error):
        return MaltError(
            f"the model '{base}' brings code of its own, which is not run unasked: read it and "
            "give --model.trust_remote_code true, or choose another by --model.name_or_path"
        )
    if re.search(r"file named \S*safetensors", str(error)):
        return MaltError(
            f"the model '{base}' cannot be loaded: it has no *.safetensors, and pickled weights "
            "may run code; save it again with safe_serialization, or choose another"
        )
    return MaltError(
        f"the model '{base}' cannot be loaded ({first_line(error)}): check --model.name_or_path"
    )


def check_adapter(folder: str | Path) -> None:
    """Raises MaltError for a folder that is no PEFT adapter, or one whose weights are pickled."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if Path(folder, name).is_file():
            continue
        if Path(folder, "adapter_model.bin").is_file():
            raise MaltError(
                f"the adapter '{folder}' cannot be loaded: adapter_model.bin is a pickle, which "
                "may run code; save it again as safetensors with PEFT's save_pretrained"
            )
        raise MaltError(f"'{folder}' is not an adapter: it has no {name}")
