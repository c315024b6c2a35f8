"""A run that is served, and what its pipeline says by itself."""

from pathlib import Path
from typing import Any

import pytest

from malt_fast.serving.pipeline import Pipeline
from tests.serving.scripted import QUESTIONS, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def expected(run: Path) -> dict[str, Any]:
    """What a pipeline says to every question."""
    with Pipeline.load(run) as pipeline:
        return dict(zip(QUESTIONS, pipeline.answers(QUESTIONS), strict=True))
