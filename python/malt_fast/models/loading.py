"""Loads models from safetensors only, and runs no code of theirs unless the user allows it.

Pickled weights (*.bin, *.pt) are refused, since reading a pickle can run arbitrary code.
"""

import os
import re
from pathlib import Path
from typing import Any

from malt_fast.models.supported import check_supported, check_weights
from malt_fast.utils.errors import MaltError, first_line, not_there
from malt_fast.utils.hub_access import NO_HUB, offline

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def check_base(base: str) -> None:
    """Raises MaltError for a base model that is certainly not there, before the hub's clients look
    for it; without a network they would take a minute."""
    if base and os.path.isdir(base):  # also where a name is too long for a file
        return
    if os.path.exists(base) or not HUB_ID.fullmatch(base):
        what = "it is no folder" if os.path.exists(base) else not_there(base)
        raise MaltError(
            f"the model '{base}' cannot be loaded ({what}): give --model.name_or_path a folder "
            "with config.json, a GGUF file, or a model of the hub as OWNER/NAME"
        )
    if offline():
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(base, "config.json"), str):
            raise MaltError(
                f"the model '{base}' cannot be loaded (it is neither a folder nor in the cache, "
                f"and {NO_HUB}): check --model.name_or_path, and the network"
            )


def load_model_config(base: str, trust_remote_code: bool = False) -> Any:
    """The config of a base model. Raises MaltError if it cannot be loaded or used."""
    check_base(base)
    from transformers import AutoConfig

    try:
        # False rather than None, for which transformers would prompt the user and run the code
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise refusal(base, error) from None
    check_supported(base, config)
    return config


def load_causal(base: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """A base model. options: of from_pretrained. Raises MaltError if it cannot be used."""
    import torch
    from transformers import AutoModelForCausalLM

    config = load_model_config(base, trust_remote_code)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            base,
            config=config,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # they are told with the others
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # safetensors, torch and packages for quantised weights raise many
        raise refusal(base, error) from None
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers takes it without a word
        raise MaltError(
            f"the model '{base}' has an adapter beside its weights, adapter_config.json: merge it "
            "into them, or move it elsewhere"
        )
    check_weights(base, model, found)
    _keep_four_bits(model)
    return model


def _keep_four_bits(model: Any) -> None:
    """Keep 4-bit weights as they are stored.

    On a CPU with AVX512-BF16, bitsandbytes would store them anew at the first inference: rounded
    once more, without a gradient for what is below, and garbage when a merge or a save reads them.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def refusal(base: str, error: Exception) -> MaltError:
    """The error for a base model that cannot be loaded."""
    if "trust_remote_code" in str(error):
        return MaltError(
            f"the model '{base}' has code of its own, which is not run by default: read it and "
            "give --model.trust_remote_code true, or choose another model by --model.name_or_path"
        )
    if "gated repo" in str(error):
        return MaltError(
            f"the model '{base}' is gated: accept its terms at https://huggingface.co/{base} and "
            "set HF_TOKEN, or choose another by --model.name_or_path"
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
