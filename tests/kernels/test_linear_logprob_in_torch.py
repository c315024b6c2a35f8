"""linear_logprob with torch.compile, DDP, checkpointing and double backward."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.kernels.heads import make_case, run, upstream, written_out


def test_opcheck():
    case = make_case(4, 3, 11, 6, bias=True, temperature="rows").with_gradients(head=False)
    for head in (False, True):
        case = case.with_gradients(head=head)
        args = (case.hidden, case.weight, case.rows, case.targets, case.bias, case.temperature)
        torch.library.opcheck(
            torch.ops.malt_fast.linear_logprob,
            (*args, 2.0, True, True, head),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.parametrize("head", [False, True])
def test_opcheck_of_the_gradients(head):
    """Gradients of a bias of another dtype and a column-major weight match the fake ones."""
    case = make_case(4, 3, 11, 6, bias=True, dtype=torch.bfloat16)
    weight = case.weight.T.contiguous().T
    _, _, *saved = torch.ops.malt_fast.linear_logprob(
        case.hidden, weight, case.rows, case.targets, case.bias, None, 0.0, False, True, head
    )
    logp = written_out(case)[0].float()
    args = (case.hidden, weight, case.rows, case.targets, case.bias.float(), None)
    torch.library.opcheck(
        torch.ops.malt_fast.linear_logprob_backward,
        (logp, *args, logp, *saved, 0.0, True, head, head),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("head", [False, True])
def test_compiles_whole(head):
    case = make_case(7, 5, 40, 9, bias=True).with_gradients(head=head)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for c in (case, make_case(9, 5, 40, 11, bias=True).with_gradients(head=head)):  # new shapes too
        ours, theirs = compiled(c), run(c)
        torch.testing.assert_close(ours, theirs)
        g = upstream(c)
        for mine, other in zip(
            torch.autograd.grad(ours, c.leaves(), g),
            torch.autograd.grad(theirs, c.leaves(), g),
            strict=True,
        ):
            torch.testing.assert_close(mine, other)


def test_gradient_checkpointing():
    case = make_case(5, 4, 30, 6).with_gradients(head=True)
    out = checkpoint(run, case, use_reentrant=False)
    again = torch.autograd.grad(out.sum(), case.leaves())
    once = torch.autograd.grad(run(case).sum(), case.leaves())
    for mine, other in zip(again, once, strict=True):
        assert torch.equal(mine, other)


UNDER_DDP = """
import os, torch
from malt_fast.kernels import linear_logprob

class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 9, bias=False)

    def forward(self, x, rows, targets):
        return linear_logprob(self.body(x), self.head.weight, rows, targets)

store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
plain, wrapped = Head(), torch.nn.parallel.DistributedDataParallel(Head())
x, rows, targets = torch.randn(5, 4), torch.arange(6) % 5, torch.arange(6)
for module in (plain, wrapped):
    module(x, rows, targets).sum().backward()
for a, b in zip(plain.parameters(), wrapped.module.parameters(), strict=True):
    assert a.grad.abs().sum() > 0
    torch.testing.assert_close(a.grad, b.grad)
os._exit(0)
"""


@pytest.mark.slow  # test_distributed trains through it under DDP
def test_under_ddp():
    """In a process that ends by _exit: gloo's destructor deadlocks on the GIL."""
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([sys.executable, "-c", UNDER_DDP], env=env, timeout=120)
    assert done.returncode == 0


def test_double_backward_is_refused():
    case = make_case(3, 4, 9, 5).with_gradients(head=False)
    (dx,) = torch.autograd.grad(run(case).sum(), case.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        dx.sum().backward()


def test_a_second_backward_over_a_kept_graph():
    case = make_case(3, 4, 9, 5).with_gradients(head=True)
    out = run(case).sum()
    first = torch.autograd.grad(out, case.leaves(), retain_graph=True)
    for mine, other in zip(torch.autograd.grad(out, case.leaves()), first, strict=True):
        assert torch.equal(mine, other)
