"""Reference log-probs of DPO and KTO: computed once per distinct completion and kept on disk.

The key of a log-prob hashes the reference model, the prompt and the completion, so a stage that was
stopped, or that gets more pairs, computes only the missing ones.
"""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from malt_fast.forest.role_data import Ints, RoleData
from malt_fast.models.identity import adapter_identity, model_identity
from malt_fast.utils.files import replacing

Source = tuple[str, Path | None, tuple[object, ...]]  # base, adapter, precision


class References:
    """`logp` float32 [M]: of a stage's completions; NaN if not yet computed, or not used."""

    def __init__(self, path: Path, data: RoleData, source: Source, mismatched: int = 0) -> None:
        """mismatched: how many of the last completions are KTO's mismatches."""
        self.path = path
        self.bare = source[1] is None  # the reference is the model without an adapter
        others = np.arange(len(data) - mismatched, len(data))
        self.used: Ints = np.union1d(data.links, others)
        model = model_digest(source)
        self.keys = [_key(model, data.prompts[i], data.completions[i]) for i in self.used.tolist()]
        self.known = load(path)
        self.logp = np.full(len(data), np.nan, np.float32)
        self.logp[self.used] = [self.known.get(key, np.nan) for key in self.keys]

    def missing(self) -> Ints:
        """Completions whose log-prob is still to be computed, ascending."""
        return self.used[np.isnan(self.logp[self.used])]

    def add(self, completions: Ints, logp: npt.NDArray[np.float32]) -> None:
        self.logp[completions] = logp

    def save(self) -> None:
        """Write old and new log-probs."""
        values = self.logp[self.used].tolist()
        self.known |= dict(zip(self.keys, values, strict=True))
        keys = np.frombuffer(b"".join(self.known), np.uint8).reshape(-1, 16)
        with replacing(self.path) as beside, beside.open("wb") as file:
            np.savez(file, keys=keys, logp=np.array(list(self.known.values()), np.float32))


def load(path: Path) -> dict[bytes, float]:
    """Log-probs by key; none if the file is missing or damaged, since they can be recomputed."""
    try:
        with np.load(path) as file:
            keys, logp = file["keys"], file["logp"]
        return dict(zip((key.tobytes() for key in keys), logp.tolist(), strict=True))
    except Exception:  # NumPy, zipfile and zlib raise errors of many kinds
        return {}


def model_digest(source: Source) -> bytes:
    """16 bytes. Raises MaltError for an adapter that cannot be read."""
    base, adapter, precision = source
    parts = (model_identity(base), adapter_identity(adapter), precision)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def _key(model: bytes, prompt: npt.NDArray[np.int32], completion: npt.NDArray[np.int32]) -> bytes:
    digest = hashlib.blake2b(model + len(prompt).to_bytes(8, "little"), digest_size=16)
    digest.update(np.ascontiguousarray(prompt).data)
    digest.update(np.ascontiguousarray(completion).data)
    return digest.digest()
