"""Compile every Triton kernel of the package without a GPU and print the registers it needs.

    python -m malt_fast.kernels.compile [--arch 80 90 100]

FILES names the files of kernels. Each has a function `variants()` that yields (name, launch) for
every kind of launch, or (name, launch, architectures) for one that is not for all. A launch goes
through the file's own launcher, on meta tensors, so that block sizes, warps and argument types are
those of a real call; it is caught before it reaches a GPU and compiled for the architectures.
Nothing runs. Exits with status 1 if registers spill, if a program needs more shared memory than it
can get, or if ptxas runs products one after the other.
"""

import argparse
import contextlib
import importlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

FILES = ("softmax_rows_triton", "target_rows_triton", "dpo_loss_triton", "fused_head_triton")

# Most shared memory of a program in bytes. 80: A100, 86: A10, 89: L4, 90: H100 and H200, 100: B200.
SHARED = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10}

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "i1",
}


class Launch(NamedTuple):
    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]  # num_warps and the like


class Cost(NamedTuple):
    registers: int  # per thread
    spills: int  # bytes per thread, stored and loaded
    shared: int  # bytes per program
    warps: int
    waits: str  # groups of wgmma instructions that may still run after a wait, for each wait
    serialized: bool  # ptxas lets no wgmma run beside other instructions

    def faults(self, arch: int) -> list[str]:
        """Why the kernel would be slow or could not be launched."""
        most = SHARED[arch]
        found = {
            f"spills {self.spills} bytes of registers per thread": self.spills > 0,
            f"needs {self.shared} bytes of shared memory of {most}": self.shared > most,
            "runs its products (wgmma) one after the other": self.serialized,
        }
        return [fault for fault, true in found.items() if true]


def launches(arch: int) -> Iterator[tuple[str, Launch]]:
    """Every launch of every variant of every file that is for the architecture."""
    for file in FILES:
        for name, launch, *only in importlib.import_module(f".{file}", __package__).variants():
            if not only or arch in only[0]:
                for caught in caught_in(launch):
                    yield name, caught


def caught_in(launch: Callable[[], object]) -> list[Launch]:
    caught = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        arguments = dict(zip(kernel.arg_names, args, strict=False))
        arguments |= {name: kwargs.pop(name) for name in kernel.arg_names if name in kwargs}
        caught.append(Launch(kernel, arguments, kwargs))

    with mock.patch.object(JITFunction, "run", run):
        launch()
    return caught


def compiled(launch: Launch, arch: int) -> Cost:
    with contextlib.redirect_stdout(io.StringIO()) as log:  # ptxas -v prints here
        options = {"target": GPUTarget("cuda", arch, 32), "options": launch.options}
        kernel = triton.compile(source(launch), **options)
    (registers,) = re.findall(r"Used (\d+) registers", log.getvalue())
    return Cost(
        registers=int(registers),
        spills=sum(map(int, re.findall(r"(\d+) bytes spill", log.getvalue()))),
        shared=kernel.metadata.shared,
        warps=kernel.metadata.num_warps,
        waits=",".join(re.findall(r"wgmma\.wait_group\S*\s+(\d+)", kernel.asm["ptx"])) or "-",
        serialized="wgmma.mma_async instructions are serialized" in log.getvalue(),
    )


def source(launch: Launch) -> ASTSource:
    """The kernel with the argument types of a real launch."""
    params = {param.name: param for param in launch.kernel.params}
    signature, constants, attributes = {}, {}, {}
    for index, (name, value) in enumerate(launch.arguments.items()):
        param = params[name]
        signature[name] = "constexpr" if param.is_constexpr else type_of(value)
        number = value.data_ptr() if isinstance(value, Tensor) else value
        if signature[name] == "constexpr":
            constants[name] = value
        elif not param.do_not_specialize and isinstance(number, int) and number % 16 == 0:
            attributes[index,] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def type_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + TYPES[value.dtype]
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{list(value.block_shape)}>"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32" if isinstance(value, float) else "constexpr"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100], choices=SHARED)
    archs = parser.parse_args().arch
    if knobs.runtime.interpret:
        sys.exit("kernels cannot be compiled under TRITON_INTERPRET: unset it")
    knobs.compilation.always_compile = knobs.nvidia.dump_ptxas_log = True
    print(f"{'kernel':36}{'variant':52}arch  registers  spills  shared  warps  waits")
    faulty = False
    for arch in archs:
        for name, launch in launches(arch):
            cost, file = compiled(launch, arch), launch.kernel.__module__.split(".")[-1]
            kernel = f"{file.removesuffix('_triton')}.{launch.kernel.__name__}"
            faults = cost.faults(arch)
            print(
                f"{kernel:36}{name:52}{arch:4}{cost.registers:11}{cost.spills:8}{cost.shared:8}"
                f"{cost.warps:7}  {cost.waits:5}  {'; '.join(faults)}".rstrip(),
                flush=True,
            )
            faulty |= bool(faults)
    sys.exit(faulty)


if __name__ == "__main__":
    main()
