"""Targets of the kernels: bounds on time, memory and error, compared with what was measured."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kernel_cases import CPU, CPU_LOGITS, CPU_LOSS, QWEN, QWEN_DPO, QWEN_LOGITS, trained
from kernel_problems import Case


class Figures:
    """Measured values by case and contender; NaN where missing."""

    def __init__(self, cases: dict[str, Any]) -> None:
        self.cases = cases

    def get(self, case: Case, contender: str, *path: str) -> float:
        value = self.cases.get(case.name, {}).get("contenders", {}).get(contender, {})
        for key in path:
            value = value.get(key, {})
        return value if isinstance(value, (int, float)) else math.nan

    def ms(self, case: Case, mode: str, contender: str = "malt_fast") -> float:
        return 1e3 * self.get(case, contender, mode, "median_s")

    def speedup(self, case: Case, mode: str, rival: str) -> float:
        return self.ms(case, mode, rival) / self.ms(case, mode)

    def memory(self, case: Case, contender: str = "malt_fast") -> float:
        return self.get(case, contender, "memory_bytes", "both")

    def error(self, case: Case, kind: str) -> float:
        return self.get(case, "malt_fast", "error", kind)


SIGNS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Target:
    text: str
    sign: str  # one of SIGNS
    bound: float
    unit: str
    measured: Callable[[Figures], float]


TARGETS = {
    "cpu": [
        Target("linear_logprob, frozen head, forward and backward: times faster than torch",
               ">=", 1.5, "x", lambda f: f.speedup(CPU, "both", "torch")),
        Target("the same: times faster than trl chunked",
               ">=", 1.2, "x", lambda f: f.speedup(CPU, "both", "trl chunked")),
        Target("the same: memory, of torch's",
               "<=", 10, "%", lambda f: 100 * f.memory(CPU) / f.memory(CPU, "torch")),
        Target("linear_logprob, trained head, forward and backward: times faster than torch",
               ">=", 1.25, "x", lambda f: f.speedup(trained(CPU), "both", "torch")),
        Target("the same: times faster than torch.compile",
               ">", 1, "x", lambda f: f.speedup(trained(CPU), "both", "torch.compile")),
        Target("logprob_from_logits, forward: times faster than log_softmax and gather",
               ">=", 3, "x", lambda f: f.speedup(CPU_LOGITS, "forward", "torch")),
        Target("dpo_loss, forward and backward: times faster than autograd",
               ">=", 1.5, "x", lambda f: f.speedup(CPU_LOSS, "both", "torch")),
    ],
    "gpu": [
        Target("linear_logprob, forward", "<=", 15, "ms", lambda f: f.ms(QWEN, "forward")),
        Target("linear_logprob, frozen head, forward and backward",
               "<=", 30, "ms", lambda f: f.ms(QWEN, "both")),
        Target("the same: memory, gradient included",
               "<", 0.35, "GB", lambda f: f.memory(QWEN) / 1e9),
        Target("the same, 512 rows", "<=", 2.2, "ms", lambda f: f.ms(few_rows(QWEN), "both")),
        Target("the same, V 32,000", "<=", 6.8, "ms", lambda f: f.ms(small_head(QWEN), "both")),
        Target("the same, H 896", "<=", 8.4, "ms", lambda f: f.ms(narrow(QWEN), "both")),
        Target("linear_logprob, trained head, forward and backward",
               "<=", 48, "ms", lambda f: f.ms(trained(QWEN), "both")),
        Target("the same: memory", "<", 5, "GB", lambda f: f.memory(trained(QWEN)) / 1e9),
        Target("linear_logprob, mean error a token",
               "<", 1e-4, "nats", lambda f: f.error(QWEN, "mean")),
        Target("linear_logprob, largest error of a token",
               "<", 1e-4, "nats", lambda f: f.error(QWEN, "max")),
        Target("logprob_from_logits, forward",
               "<=", 0.85, "ms", lambda f: f.ms(QWEN_LOGITS, "forward")),
        Target("linear_dpo, frozen head, 16 pairs", "<=", 90, "ms",
               lambda f: f.ms(QWEN_DPO, "both")),
        Target("linear_dpo, trained head, 16 pairs", "<=", 115, "ms",
               lambda f: f.ms(trained(QWEN_DPO), "both")),
    ],
}  # fmt: skip


def few_rows(case: Case) -> Case:
    return replace(case, rows=512, sweeps=("tokens",))


def small_head(case: Case) -> Case:
    return replace(case, vocabulary=32000, sweeps=("vocabulary",))


def narrow(case: Case) -> Case:
    return replace(case, hidden=896, sweeps=())


def targets_of(preset: str, cases: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for target in TARGETS.get(preset, []):
        measured = target.measured(Figures(cases))
        better = SIGNS[target.sign](measured, target.bound)
        verdict = "not measured" if math.isnan(measured) else "reached" if better else "missed"
        rows.append(
            {
                "target": target.text,
                "bound": f"{target.sign} {target.bound:g} {target.unit}",
                "measured": None if math.isnan(measured) else measured,
                "verdict": verdict,
            }
        )
    return rows
