"""GGUF files as base models: read once by transformers, and kept as a checkpoint beside the hub's.

    FILE.gguf  --hash-->  HF_HOME/malt-fast/NAME-HASH/  config.json, *.safetensors, tokenizer.json

That folder is the base model for every engine, the trainer and exports. It appears whole or not at
all; of processes that make it at once, the first wins. Weights are dequantised to float32; those
that are stored in 16 bits stay so.
"""

import logging
import math
from collections import Counter
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from malt_fast.models.gguf_tokenizer import ends_of, make_tokenizer
from malt_fast.models.identity import content
from malt_fast.models.saving import saving
from malt_fast.models.supported import check_weights
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.files import made_once, make_folder, remove_abandoned
from malt_fast.utils.installing import install_command
from malt_fast.utils.quiet import quiet

log = logging.getLogger(__name__)

FORM = 2  # of what is written; another form gets folders of its own
HALVES = {"F16": "float16", "BF16": "bfloat16"}
# (factor, low, high, original context) of the llama3 scaling that Llama 3.1 and 3.2 have
LLAMA3 = [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192)]


def checkpoint_of(file: Path) -> Path:
    """The folder with the checkpoint made of a GGUF file, made now if it is not there.

    Raises MaltError for a file that is no GGUF, damaged, or of a model that transformers cannot
    read, for a missing package and for a cache that cannot be written.
    """
    from huggingface_hub.constants import HF_HOME

    _check_file(file)
    try:
        name = f"{file.stem}-{content(file)[:16]}-{FORM}"
        folder = Path(HF_HOME, "malt-fast", name)
        remove_abandoned(folder.parent)
        if not folder.is_dir():
            make_folder(folder.parent)
            log.warning("'%s' is read once, and kept as a checkpoint in %s", file, folder)
            with made_once(folder) as new, quiet(), redirect_stderr(StringIO()):  # bars
                _write(file, new)
    except OSError as error:
        raise MaltError(
            f"the checkpoint of '{file}' cannot be written ({first_line(error)}): make room, or "
            "set HF_HOME to another folder"
        ) from None
    return folder


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise MaltError(f"'{file}' is no file: check --model.name_or_path")
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise MaltError(f"'{file}' is no GGUF file: check --model.name_or_path")
    if find_spec("gguf") is None:
        raise MaltError(
            f"'{file}' needs the package gguf, which is not installed: {install_command('gguf')}"
        )


def _write(file: Path, folder: Path) -> None:
    """Write the checkpoint of a GGUF file into an empty folder."""
    values, kind, factors = _metadata(file)
    model = _read_model(file, kind)
    config = model.config
    _check_rope(file, config, values, factors)
    tokenizer = make_tokenizer(file, values)
    for one in (config, model.generation_config):
        one.bos_token_id, one.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
        one.eos_token_id = ends_of(values) or None
    del config.quantization_config  # transformers would not save the weights, though they are whole
    model.hf_quantizer = None
    with saving(folder.parent):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _metadata(file: Path) -> tuple[dict[str, Any], str, list[float] | None]:
    """Values by key, the type of most weights, and the factors of rope frequencies if any."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        values = {key: field.contents() for key, field in reader.fields.items()}
        kinds = Counter[str]()
        for tensor in reader.tensors:
            kinds[tensor.tensor_type.name] += int(tensor.n_elements)
        factors = [t.data.tolist() for t in reader.tensors if t.name.startswith("rope_")]
        kind = kinds.most_common(1)[0][0]
    except Exception:  # it reads past the end in many ways
        raise MaltError(f"'{file}' is damaged or cut off: copy or download it again") from None
    if int(values.get("split.count") or 1) > 1:
        raise MaltError(
            f"'{file}' is one of {values['split.count']} parts: join them with llama-gguf-split "
            "--merge, or name the original model"
        )
    return values, kind, factors[0] if factors else None


def _read_model(file: Path, kind: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, HALVES.get(kind, "float32"))
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=dtype, output_loading_info=True
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of all kinds
        raise MaltError(
            f"transformers cannot read '{file}' ({first_line(error)}): name the original model"
        ) from None
    check_weights(str(file), model, found)
    return model


def _check_rope(
    file: Path, config: Any, values: dict[str, Any], factors: list[float] | None
) -> None:
    """Restore the llama3 scaling, which transformers leaves out. Raises MaltError for another."""
    rope = config.get_text_config().rope_parameters
    scaling = values.get(f"{values['general.architecture']}.rope.scaling.type") or "none"
    if rope.get("rope_type") != "default" or (factors is None and scaling == "none"):
        return
    dim = config.head_dim
    for factor, low, high, context in LLAMA3 if factors and len(factors) == dim // 2 else ():
        wanted = llama3_factors(rope["rope_theta"], dim, factor, low, high, context)
        if all(
            math.isclose(a, b, rel_tol=1e-4) for a, b in zip(factors or (), wanted, strict=True)
        ):
            rope |= {"rope_type": "llama3", "factor": factor, "low_freq_factor": low}
            rope |= {"high_freq_factor": high, "original_max_position_embeddings": context}
            return
    raise MaltError(
        f"'{file}' scales its positions in a way that transformers does not read: name the "
        "original model"
    )


def llama3_factors(
    theta: float, dim: int, factor: float, low: float, high: float, context: int
) -> list[float]:
    """What the frequencies are divided by: 1 for short waves, `factor` for long ones."""
    out = []
    for i in range(0, dim, 2):
        turns = context / (2 * math.pi * theta ** (i / dim))  # within the original context
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        out.append(1 / ((1 - share) / factor + share))
    return out
