"""Every Triton kernel compiles for an A100 and an H100, and keeps its values in registers."""

import os
import subprocess
import sys

import pytest

# The variants of each kernel that take the most arguments.
DEMANDING = """
from triton import knobs
from malt_fast.kernels import compile

knobs.compilation.always_compile = knobs.nvidia.dump_ptxas_log = True
wanted = {
    "float32 [R, 8192] to bfloat16, options", "bfloat16 [R, 8193], options", "float32 [R, 8192]",
    "sigmoid, smoothed, NLL", "ipo, NLL", "",
}
names = [name for name, _ in compile.launches()]
assert wanted <= set(names), names
for name, launch in compile.launches():
    if name in wanted:
        print(launch.kernel.__name__, name)
        assert compile.compiled(launch, 90).spills == 0
"""


def compiled(tmp_path, *command):
    """What a process prints that compiles kernels, which cannot be under Triton's interpreter."""
    pytest.importorskip("triton")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_demanding_kernels_do_not_spill(tmp_path):
    names = {line.split()[0] for line in compiled(tmp_path, "-c", DEMANDING).splitlines()}
    assert names == {"_fold", "_gradient", "_gradient_from_weights", "_forward", "_backward"}


@pytest.mark.slow
def test_no_kernel_spills(tmp_path):
    table = compiled(tmp_path, "-m", "malt_fast.kernels.compile", "--arch", "80", "90")
    assert " 80 " in table and " 90 " in table
