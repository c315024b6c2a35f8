"""How the core is built: hardened against what it reads, and beside packages of the same name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from malt_fast import _core

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf")
@pytest.mark.skipif("MALT_CORE" in os.environ, reason="a build for sanitizers")
def test_the_core_is_hardened():
    def read(*options):
        command = ["readelf", "-W", *options, _core.__file__]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "GNU_RELRO" in read("-l") and "BIND_NOW" in read("-d")
    assert "__stack_chk_fail" in read("--dyn-syms")


def imported(tmp_path, *lines):
    """What a process prints that has the checkout and then tmp_path on its path."""
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", "; ".join(lines)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_package_called_kernels_is_found_behind_the_checkout(tmp_path):
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("from .layer import get_kernel\n")
    (package / "layer.py").write_text("def get_kernel():\n    return 'theirs'\n")
    own = "import malt_fast.kernels as own", "print(own.__name__, hasattr(own, 'dpo_loss'))"
    told = imported(tmp_path, "import kernels", "print(kernels.get_kernel())", *own)
    assert told == ["theirs", "malt_fast.kernels", "True"]


def test_without_such_a_package_it_is_empty(tmp_path):
    told = imported(tmp_path, "import kernels", "print(hasattr(kernels, 'dpo_loss'))")
    assert told == ["False"]
