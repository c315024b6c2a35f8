"""Check the kernels on this machine's GPU against float64, in every dtype.

    python benchmarks/check_gpu.py [--device cuda|cpu]

Needs torch, triton and the installed package, but not pytest. The error of a result may be a few
float32 roundings, whatever the storage type. The error of a gradient may be three times that of
plain torch in the same type, both relative to the norm, plus one rounding. Prints the registers and
spills of every kernel that ran, and exits with status 1 if any check failed.
"""

import argparse
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from common import print_table
from kernel_problems import Case, make_problem, truth_of
from malt_fast.kernels import dpo_loss, linear_dpo, linear_logprob, logprob_from_logits, which
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ROWS, HIDDEN, VOCABULARY, TARGETS = 61, 129, 9001, 97  # no multiples; more than one tile wide


@dataclass(frozen=True)
class Finding:
    check: str
    error: float
    bound: float

    @property
    def right(self) -> bool:
        return self.error <= self.bound  # false for NaN


def small(dtype: torch.dtype) -> float:
    return 1e-11 if dtype == torch.float64 else 2e-5


def apart(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-300)).item()


# ---- plain torch ----


def head_logits(x: dict[str, Any], dtype: torch.dtype) -> Tensor:
    bias = None if x["bias"] is None else x["bias"].to(dtype)
    z = torch.nn.functional.linear(x["hidden"].to(dtype)[x["rows"]], x["weight"].to(dtype), bias)
    if x["softcap"] is not None:
        z = x["softcap"] * torch.tanh(z / x["softcap"])
    if isinstance(x["temperature"], Tensor):
        return z / x["temperature"].to(dtype)[x["rows"], None]
    return z / x["temperature"]


def written_out(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    log_p = logits.log_softmax(-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(1)


def make_head(device: torch.device, dtype: torch.dtype, *, full: bool) -> dict[str, Any]:
    g = torch.Generator(device).manual_seed(0)
    here: dict[str, Any] = {"generator": g, "device": device}
    weight = torch.randn(VOCABULARY, HIDDEN, **here) / HIDDEN**0.5
    return {
        "hidden": (3 * torch.randn(ROWS, HIDDEN, **here)).to(dtype).requires_grad_(),
        "weight": weight.to(dtype),
        "rows": torch.randint(ROWS, (TARGETS,), **here),  # some rows twice, some never
        "targets": torch.randint(VOCABULARY, (TARGETS,), **here),
        "bias": torch.randn(VOCABULARY, **here).to(dtype) if full else None,
        "temperature": torch.rand(ROWS, **here) + 0.5 if full else 1.0,
        "softcap": 10.0 if full else None,
        "upstream": torch.randn(TARGETS, **here),
    }


# ---- checks ----


def check_linear_logprob(device: torch.device) -> Iterator[Finding]:
    for dtype, full, trained in itertools.product(DTYPES, (False, True), (False, True)):
        x = make_head(device, dtype, full=full)
        leaves = [x["hidden"]]
        if trained:
            leaves += [t.requires_grad_() for t in (x["weight"], x["bias"]) if t is not None]
        name = f"linear_logprob {dtype}{' bias, cap, T' if full else ''}"
        name += " trained" if trained else " frozen"
        out = linear_logprob(
            *(x[key] for key in ("hidden", "weight", "rows", "targets")),
            bias=x["bias"],
            temperature=x["temperature"],
            logit_softcap=x["softcap"],
            return_entropy=True,
        )
        truth, entropy = written_out(head_logits(x, torch.float64), x["targets"])
        yield Finding(name, apart(out.logp, truth), small(dtype))
        yield Finding(name + ", entropy", apart(out.entropy, entropy), small(dtype))
        plain, _ = written_out(head_logits(x, dtype), x["targets"])
        yield from gradients(name, leaves, x["upstream"], out.logp, truth, plain)


def gradients(
    name: str, leaves: list[Tensor], upstream: Tensor, ours: Tensor, truth: Tensor, plain: Tensor
) -> Iterator[Finding]:
    """One finding per leaf."""
    ways = [torch.autograd.grad(o, leaves, upstream.to(o.dtype)) for o in (ours, truth, plain)]
    for i, (mine, true, other) in enumerate(zip(*ways, strict=True)):
        bound = 3 * relative(other, true) + torch.finfo(mine.dtype).eps + small(mine.dtype)
        yield Finding(f"{name}, gradient {i}", relative(mine, true), bound)


def check_logprob_from_logits(device: torch.device) -> Iterator[Finding]:
    for dtype, full in itertools.product(DTYPES, (False, True)):
        g = torch.Generator(device).manual_seed(0)
        here: dict[str, Any] = {"generator": g, "device": device}
        wide = (3 * torch.randn(ROWS, VOCABULARY + 7, **here)).to(dtype)
        logits = wide[:, 3 : VOCABULARY + 3].detach().requires_grad_()  # rows apart, not aligned
        targets = torch.randint(VOCABULARY, (ROWS,), **here)
        upstream = torch.randn(ROWS, **here)
        temperature = torch.rand(ROWS, **here) + 0.5 if full else torch.ones(ROWS, device=device)
        cap = 5.0 if full else None
        settings: dict[str, Any] = {"temperature": temperature, "logit_softcap": cap}
        ways = []
        for in_dtype in (torch.float64, dtype):
            z = logits.to(in_dtype)
            z = z if cap is None else cap * torch.tanh(z / cap)
            ways.append(written_out(z / temperature[:, None].to(in_dtype), targets))
        (truth, entropy), (plain, _) = ways
        name = f"logprob_from_logits {dtype}{' cap, T' if full else ''}"
        out = logprob_from_logits(logits, targets, return_entropy=True, **settings)
        yield Finding(name, apart(out.logp, truth), small(dtype))
        yield Finding(name + ", entropy", apart(out.entropy, entropy), small(dtype))
        yield from gradients(name, [logits], upstream, out.logp, truth, plain)
        grads: list[Tensor] = []
        for inplace in (False, True):
            x = logits.detach().clone().requires_grad_()
            logp = logprob_from_logits(x, targets, inplace_backward=inplace, **settings)
            grads += torch.autograd.grad(logp, x, upstream.to(logp.dtype))
        yield Finding(name + ", in place as otherwise", apart(*grads), 0.0)


def check_dpo_loss(device: torch.device) -> Iterator[Finding]:
    """Against the same function in float64, which is plain torch."""
    g = torch.Generator(device).manual_seed(0)
    here: dict[str, Any] = {"generator": g, "device": device}
    logp, ref_logp = (-30 * torch.rand(37, **here) for _ in range(2))
    pairs = torch.randint(37, (300, 2), **here)
    lengths = torch.randint(1, 60, (37,), **here)
    upstream = torch.randn(300, **here)
    every: tuple[dict[str, Any], ...] = (
        {},
        {"label_smoothing": 0.2},
        {"loss_type": "hinge"},
        {"loss_type": "ipo"},
        {"rpo_alpha": 0.7},
    )
    for settings in every:
        grads: list[Tensor] = []
        losses: list[Tensor] = []
        for dtype in (torch.float32, torch.float64):
            leaf = logp.to(dtype).requires_grad_()
            out = dpo_loss(leaf, ref_logp.to(dtype), pairs, lengths, beta=0.1, **settings)
            losses.append(out.losses)
            grads += torch.autograd.grad(out.losses, leaf, upstream.to(dtype))
        name = f"dpo_loss {settings or 'sigmoid'}"
        yield Finding(name, relative(*losses), 2e-6)
        yield Finding(name + ", gradient", relative(*grads), 2e-6)


def check_linear_dpo(device: torch.device) -> Iterator[Finding]:
    """Against the same function in float64, which is plain torch; bounds as for log-probs."""
    for dtype, head in itertools.product(DTYPES[:3], ("frozen", "trained")):
        name = str(dtype).removeprefix("torch.")
        case = Case("linear_dpo", 96, 64, 9001, name, head, pairs=4, prompt=5)
        x = make_problem(case, device)
        given = (x.rows, x.targets, x.owner, x.pairs)
        out = linear_dpo(x.hidden, x.weight, *given, ref_hidden=x.ref_hidden, beta=0.1)
        grads = torch.autograd.grad(out.loss, x.leaves)
        exact = [t.detach().double().requires_grad_(t.requires_grad) for t in (x.hidden, x.weight)]
        truth = linear_dpo(*exact, *given, ref_hidden=x.ref_hidden.double(), beta=0.1)
        leaves = [t for t in exact if t.requires_grad]
        yield Finding(f"{case.name}", apart(out.losses, truth.losses), 1e-4)
        rounding = 4 * max(torch.finfo(dtype).eps, small(dtype))
        for i, pair in enumerate(zip(grads, torch.autograd.grad(truth.loss, leaves), strict=True)):
            yield Finding(f"{case.name}, gradient {i}", relative(*pair), rounding)


def check_like_a_model(device: torch.device) -> Iterator[Finding]:
    """Data like a trained model's, at a size with long sums; errors must stay below 1e-4 nats."""
    size = (512, 2048, 65536) if device.type == "cuda" else (64, 256, 4096)
    for dtype in ("float32", "bfloat16", "float16"):
        case = Case("linear_logprob", *size, dtype, "frozen")
        problem = make_problem(case, device)
        truth = truth_of(problem)
        out = linear_logprob(problem.hidden, problem.weight, problem.rows, problem.targets)
        yield Finding(f"like a model: {case.name}", apart(out, truth.out), 1e-4)
        first = linear_logprob(problem.hidden, problem.weight, problem.rows, problem.targets)
        grads = [torch.autograd.grad(o, problem.hidden, problem.upstream)[0] for o in (out, first)]
        yield Finding("the same, once more: bit for bit", apart(out, first), 0.0)
        yield Finding("the same, gradient bit for bit", apart(*grads), 0.0)


def check_nan(device: torch.device) -> Iterator[Finding]:
    x = make_head(device, torch.float32, full=False)
    hidden = x["hidden"].detach()
    hidden[1, 2] = torch.nan
    rows = torch.arange(3, device=device)
    out = linear_logprob(hidden, x["weight"], rows, x["targets"][:3])
    wrong = (out.isnan() != (rows == 1)).sum().item()
    yield Finding("a NaN stays in its row", wrong, 0.0)


def check_beyond_int32(device: torch.device) -> Iterator[Finding]:
    """More logits than an int32 can index."""
    if device.type != "cuda" or torch.cuda.mem_get_info()[0] < 12e9:
        return
    vocabulary = 151936
    rows = 2**31 // vocabulary + 200
    logits = torch.zeros(rows, vocabulary, dtype=torch.bfloat16, device=device)
    logits[-100:] = torch.randn(100, vocabulary, device=device).bfloat16()
    last = logits[-100:].double()
    targets = torch.arange(rows, device=device)
    upstream = torch.linspace(-1, 1, rows, device=device)
    logits.requires_grad_()
    out = logprob_from_logits(logits, targets, inplace_backward=True)
    (grad,) = torch.autograd.grad(out, logits, upstream)
    truth = last.log_softmax(-1)
    picked = truth.gather(1, targets[-100:, None]).squeeze(1)
    yield Finding("more than 2^31 logits", apart(out[-100:], picked), 2e-5)
    grad_logits = torch.nn.functional.one_hot(targets[-100:], vocabulary) - truth.exp()
    grad_logits *= upstream[-100:, None].double()
    yield Finding("more than 2^31 logits, gradient", relative(grad[-100:], grad_logits), 0.01)


def check_compiled(device: torch.device) -> Iterator[Finding]:
    x = make_head(device, torch.bfloat16, full=False)
    given = [x[key] for key in ("hidden", "weight", "rows", "targets")]
    compiled = torch.compile(linear_logprob, fullgraph=True, backend="aot_eager")
    yield Finding("under torch.compile", apart(compiled(*given), linear_logprob(*given)), 0.0)


CHECKS: list[Callable[[torch.device], Iterator[Finding]]] = [
    check_linear_logprob,
    check_logprob_from_logits,
    check_dpo_loss,
    check_linear_dpo,
    check_like_a_model,
    check_nan,
    check_compiled,
    check_beyond_int32,
]

# ---- registers ----


def kernels_that_ran() -> list[tuple[str, ...]]:
    """Registers, spills, shared bytes of each compiled variant."""
    rows = []
    for module in ("softmax_rows_triton", "target_rows_triton", "dpo_loss_triton"):
        for name, function in vars(importlib.import_module(f"malt_fast.kernels.{module}")).items():
            for cache in getattr(function, "device_caches", {}).values():
                for kernel in cache[0].values():
                    figures = (kernel.n_regs, kernel.n_spills, kernel.metadata.shared)
                    rows.append((f"{module}.{name}", "", *map(str, figures)))
    return sorted(set(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here: use --device cpu, or another machine")
    for dtype in DTYPES:
        print(f"{dtype}: {which(device, dtype)}")
    findings: list[Finding] = []
    rows = []
    for check in CHECKS:
        try:
            found = list(check(device))
        except Exception as error:
            print(f"{check.__name__} raised {type(error).__name__}: {error}")
            found = [Finding(check.__name__, float("nan"), 0.0)]
        worst = sorted(found, key=lambda f: (f.right, -f.error / max(f.bound, 1e-300)))
        for f in [f for f in worst if not f.right] or worst[:1]:
            figures = (f"{f.error:.1e}", f"{f.bound:.1e}", str(len(found)))
            rows.append((f.check, "" if f.right else "WRONG", *figures))
        findings += found
    header = ("the worst of each check, and all failures", "", "error", "bound", "of")
    print_table(f"kernels on {device} against float64", header, rows)
    if device.type == "cuda":
        header = ("kernel", "", "registers", "spills", "shared bytes")
        print_table("compiled variants that ran", header, kernels_that_ran())
    wrong = sum(not f.right for f in findings)
    if wrong:
        sys.exit(f"{wrong} of {len(findings)} findings are wrong")
    print(f"all {len(findings)} findings are right")


if __name__ == "__main__":
    main()
