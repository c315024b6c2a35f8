"""Warnings about a role that trains badly."""

from collections.abc import Mapping

FALL = 10.0  # nats a chosen output may lose, or half of what it has


def collapsing(role: str, first: Mapping[str, float], now: Mapping[str, float]) -> str:
    """DPO widens its margins by making chosen outputs unlikely, rejected ones more so."""
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
        f"{stage} {role}: the adapter changes nothing, its B matrices are all zero: raise "
        f"train.{stage}.learning_rate or its number of steps"
    )
