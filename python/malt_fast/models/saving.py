"""Weights on their way to a disk that may be full."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from malt_fast.utils.errors import MaltError, first_line

# What is in the RuntimeErrors of torch.save and of nothing else: how far it came decides which.
WRITING = ("inline_container", "iostream error", "PytorchStreamWriter")


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn the errors that safetensors and torch raise for a full disk into a MaltError."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in WRITING):
            raise
        raise MaltError(
            f"{folder} cannot be written ({first_line(error)}): make room there and give the same "
            "command again"
        ) from None
