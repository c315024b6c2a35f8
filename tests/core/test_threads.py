"""The core's threads: as many as there are give the same bits as one."""

import os
import subprocess
import sys

PROGRAM = """
import hashlib, sys
import torch
from malt_fast.kernels import linear_logprob, logprob_from_logits
from malt_fast.models.tree_attention import _Blocked

torch.set_num_threads(int(sys.argv[1]))
for _ in range(2):
    torch.manual_seed(0)
    digest = hashlib.sha256()
    logits = torch.randn(300, 5000).requires_grad_()
    targets = torch.randint(5000, (300,))
    out = logprob_from_logits(logits, targets)
    digest.update(out.detach().numpy().tobytes())
    digest.update(torch.autograd.grad(out.sum(), logits)[0].numpy().tobytes())
    q, k, v = (torch.randn(heads, 700, 16).requires_grad_() for heads in (4, 2, 2))
    end = torch.arange(700, dtype=torch.int32) // 100 * 100 + 100  # seven trees
    out = _Blocked.apply(q, k, v, end, 0.25, 0.0)
    digest.update(out.detach().numpy().tobytes())
    for grad in torch.autograd.grad(out.sum(), (q, k, v)):
        digest.update(grad.numpy().tobytes())
    print(digest.hexdigest())
"""


def test_threads_change_no_bit():
    def run(threads: int) -> list[str]:
        command = [sys.executable, "-c", PROGRAM, str(threads)]
        own = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
        return done.stdout.split()

    digests = [*run(1), *run(4)]
    assert len(digests) == 4 and len(set(digests)) == 1
