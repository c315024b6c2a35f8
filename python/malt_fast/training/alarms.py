"""Warnings about training that goes wrong."""

from collections.abc import Mapping

FALL = 10.0  # nats of log-prob that chosen outputs may lose before a warning


def collapsing(role: str, first: Mapping[str, float], now: Mapping[str, float]) -> str:
    """A warning if margins grow while chosen outputs become unlikely; empty if all is well.

    The known failure of DPO: it lowers the log-prob of chosen outputs, and of rejected ones more.
    first, now: log lines of the stage.
    """
    try:
        before, after, margin = first["logps/chosen"], now["logps/chosen"], now["rewards/margins"]
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
