"""Identities of models and adapters: hashes of their content, equal for copies."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import xxhash

from malt_fast.models.loading import check_adapter
from malt_fast.utils.errors import MaltError, first_line


def model_identity(name: str) -> str:
    """Of a base model: a hash of weights, config and code, or for a hub id its commit."""
    folder = Path(name)
    if not folder.is_dir():
        return f"{name}@{_commit(name)}"
    kinds = ("config.json", "*.safetensors", "*.bin", "*.py")
    files = [file for kind in kinds for file in folder.glob(kind)]
    return _digest([(path.name, content(path)) for path in sorted(files)])


def adapter_identity(folder: str | Path | None) -> str:
    """Of a PEFT adapter; empty for None. Raises MaltError for one that cannot be read."""
    if folder is None:
        return ""
    check_adapter(folder)
    try:
        config = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
        modules = config.get("target_modules")
        if isinstance(modules, list):  # PEFT writes this set in any order
            config["target_modules"] = sorted(map(str, modules))
        weights = content(Path(folder, "adapter_model.safetensors"))
        return _digest((json.dumps(config, sort_keys=True), weights))
    except (OSError, ValueError, AttributeError) as error:
        raise MaltError(f"the adapter '{folder}' cannot be read: {first_line(error)}") from None


def content(path: Path) -> str:
    """Hash of a file, cached while its size and modification time stay. Raises OSError."""
    stat = path.stat()
    return _content(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _content(path: Path, size: int, changed: int) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            digest.update(piece)
    return digest.hexdigest()


def _commit(name: str) -> str:
    """The commit of a hub model in the local cache; empty if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # not a hub id: loading it raises an error
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""


def _digest(parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
