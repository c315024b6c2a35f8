"""The tokens that end an output, as a checkpoint's files name them."""

from collections.abc import Iterator
from typing import Any

from malt_fast.models.loading import load_model_config
from malt_fast.utils.errors import MaltError


def end_tokens(model: str, tokenizer: Any, trust_remote_code: bool = False) -> list[int]:
    """Those of the tokenizer, the generation config and the config, each once.

    Raises MaltError for files that cannot be read, and for tokens that are no numbers.
    """
    config = load_model_config(model, trust_remote_code)
    named = [tokenizer.eos_token_id, _generation_config(model), config.eos_token_id]
    named.append(getattr(config.get_text_config(), "eos_token_id", None))
    return list(dict.fromkeys(i for one in named for i in _flat(model, one)))


def _generation_config(model: str) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model).eos_token_id
    except OSError as error:
        if "valid JSON" not in str(error):
            return None  # a checkpoint need not have one
    except (TypeError, ValueError, AttributeError):
        pass
    raise MaltError(
        f"generation_config.json of '{model}' cannot be read: correct it, or remove it if the end "
        "token stands in config.json"
    )


def _flat(model: str, named: Any) -> Iterator[int]:
    for token in named if isinstance(named, list) else [named]:
        if isinstance(token, int) and token >= 0:
            yield token
        elif token is not None and token != -1:
            raise MaltError(
                f"eos_token_id of '{model}' is {token!r}, which is no token: correct its config"
            )
