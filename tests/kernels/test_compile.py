"""Every Triton kernel compiles for A100, H100 and B200, and keeps its values in registers."""

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
    "sigmoid, smoothed, NLL", "ipo, NLL", "", "bfloat16, R float32", "bfloat16",
    "128x256x64 w8 s4 g8 flatten halves to bfloat16",
}
names = [name for name, _ in compile.launches(90)]
assert wanted <= set(names), names
for name, launch in compile.launches(90):
    if name in wanted:
        print(launch.kernel.__name__, name)
        assert not compile.compiled(launch, 90).faults(90)
"""

# A product through descriptors; what is wrong with it in several launches.
PRODUCT = """
import torch, triton, triton.language as tl
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor
from malt_fast.kernels import compile

@triton.jit
def product(a, b, out, steps, N: tl.constexpr):
    sums = tl.zeros([128, N], tl.float32)
    for k in range(steps):
        sums = tl.dot(a.load([0, k * 64]), b.load([0, k * 64]).T, sums)
    tl.store(out + tl.arange(0, 128)[:, None] * N + tl.arange(0, N)[None, :], sums)

knobs.compilation.always_compile = knobs.nvidia.dump_ptxas_log = True
a = torch.empty(999, 512, dtype=torch.bfloat16, device="meta")
a = TensorDescriptor.from_tensor(a, [128, 64])
out = torch.empty(128, 128, device="meta")
for arch, options in ((90, {}), (100, {}), (90, {"num_stages": 8}), (90, {"maxnreg": 104})):
    run = lambda: product[(1,)](a, a, out, 8, N=128, num_warps=4, **options)
    (launch,) = compile.caught_in(run)
    cost = compile.compiled(launch, arch)
    print(arch, cost.waits, cost.faults(arch))
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
    assert names == {
        "_fold", "_gradient", "_forward", "_backward", "_fused_head", "_target_logits", "_settle",
        "_row_gradients", "_add_target_rows",
    }  # fmt: skip


def test_faults_of_a_product_through_descriptors(tmp_path):
    script = tmp_path / "product.py"
    script.write_text(PRODUCT)
    *right, large, crowded = compiled(tmp_path, script).splitlines()
    assert right == ["90 1,0 []", "100 - []"]
    assert "262208 bytes of shared memory of 232448" in large and "spill" not in large
    assert "spills" in crowded and "one after the other" in crowded


@pytest.mark.slow
def test_no_kernel_has_faults(tmp_path):
    table = compiled(tmp_path, "-m", "malt_fast.kernels.compile")
    assert all(f" {arch} " in table for arch in (80, 90, 100))
