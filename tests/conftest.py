"""Settings and fixtures that all tests share."""

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()):
    # No GPU: use Triton's interpreter. It must be chosen before triton is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# No deadline: tests must pass on a busy machine, too. `make test-slow` takes "nightly".
settings.register_profile("nightly", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("nightly"), max_examples=20)
settings.load_profile("quick")

# `make sanitize` tests another build of the core than the installed one.
if core := os.environ.get("MALT_CORE"):
    spec = importlib.util.spec_from_file_location("malt_fast._core", core)
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])


@pytest.fixture(autouse=True, scope="module")
def frozen_imports() -> None:
    """Hides what is imported from the garbage collector, which accelerate runs at every stage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of GSM8K, CSQA and grading files that developers keep beside a checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which a plain clone does not have")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of tiny runs."""
    from tests.small_run import write_questions

    return write_questions(tmp_path_factory.mktemp("data") / "questions.jsonl")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of tiny runs."""
    from tests.small_run import write_model

    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def made(data: Path, model: Path) -> tuple[Path, Path]:
    """Questions and model."""
    return data, model


@pytest.fixture(scope="session")
def finished_run(
    data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory, blank_charts: None
) -> Path:
    """A finished tiny run. Tests read it, or change a copy of it."""
    from tests.small_run import run

    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(data, model, folder) == 0
    return folder


@pytest.fixture(scope="session", autouse=True)
def blank_charts() -> Iterator[None]:
    """Every chart is empty unless a test asks for `drawn_charts`."""
    if core or importlib.util.find_spec("matplotlib") is None:  # sanitized, or free-threaded
        yield
        return
    from tests.charts import save_blank, saving_by

    with saving_by(save_blank):
        yield


@pytest.fixture
def drawn_charts(blank_charts: None) -> Iterator[None]:
    """Charts are drawn, for tests that look at them."""
    from tests.charts import draw, saving_by

    with saving_by(draw):
        yield
