"""Warnings about training that goes wrong."""

from collections.abc import Mapping

FALL = 10.0  # nats of log-prob that chosen outputs may lose before a warning


def collapsing(role: str, line: Mapping[str, float], beta: float) -> str:
    """A warning if margins grow while chosen outputs become unlikely; empty if all is well.

    The known failure of DPO: it lowers the log-prob of chosen outputs, and of rejected ones more.
    line: of the stage's log. A reward is beta times what an output gained over the reference, so
    that the fall is that of the same outputs, whatever outputs other lines tell of.
    """
    try:
        after, margin = line["logps/chosen"], line["rewards/margins"]
        before = after - line["rewards/chosen"] / beta
    except KeyError:
        return ""
    if margin <= 0 or before - after <= max(FALL, abs(before) / 2):
        return ""
    return (
        f"chosen outputs of the {role} lose probability ({before:.1f} to {after:.1f} nats) while "
        "margins grow: raise train.dpo.beta or train.dpo.rpo_alpha, or lower "
        "train.dpo.learning_rate"
    )


def ineffective(stage: str, role: str) -> str:
    return (
        f"{stage} {role}: the adapter has no effect, since its B matrices are all zero: raise "
        f"train.{stage}.learning_rate or its number of steps"
    )
