"""Fixtures that several test files share."""

import gc
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()):
    # No GPU: Triton's interpreter, which has to be chosen before triton is first imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A busy machine is no reason to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


# `make sanitize` tests another build of the core than the installed one.
if core := os.environ.get("MALT_CORE"):
    spec = importlib.util.spec_from_file_location("malt_fast._core", core)
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])


@pytest.fixture(autouse=True, scope="module")
def frozen_imports() -> None:
    """Hide imported modules from the garbage collector, which accelerate runs at every stage.

    A tiny run then takes 2.7 s of processor time instead of 4.5 s.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of GSM8K, CSQA and grading files that developers keep beside a checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which a plain clone does not have")
    return folder
