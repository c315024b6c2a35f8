"""Warnings about training that goes wrong."""

from collections.abc import Mapping

FALL = 10.0  # nats of log-prob that chosen outputs may lose before a warning


def collapsing(role: str, line: Mapping[str, float], beta: float, on_pairs: bool = True) -> str:
    """A warning if margins grow while chosen outputs become unlikely; empty if all is well.

    The known failure of DPO: it lowers the log-prob of chosen outputs, and of rejected ones more.
    line: of the stage's log; on_pairs: whether the stage learns from pairs. A reward is beta times
    what an output gained over the reference, so that the fall is that of the same outputs, whatever
    outputs other lines tell of.
    """
    try:
        after, margin = line["logps/chosen"], line["rewards/margins"]
        before = after - line["rewards/chosen"] / beta
    except KeyError:
        return ""
    if margin <= 0 or before - after <= max(FALL, abs(before) / 2):
        return ""
    nll = " or train.dpo.rpo_alpha" if on_pairs else ""
    return (
        f"chosen outputs of the {role} lose probability ({before:.1f} to {after:.1f} nats) while "
        f"margins grow: raise train.dpo.beta{nll}, or lower train.dpo.learning_rate"
    )


def unbalanced(role: str, positive: int, negative: int, weights: tuple[float, float]) -> str:
    """A warning if KTO's labels are of one kind, or weigh otherwise than its authors advise.

    weights: desirable_weight and undesirable_weight. Positives should weigh 1 to 4/3 times as much
    as negatives in sum (arXiv 2402.01306 eq. 8).
    """
    if not positive or not negative:
        kind, other = ("positive", "harder") if positive else ("negative", "easier")
        return (
            f"all {positive + negative:,} labelled outputs of the {role} are {kind}, so that KTO "
            f"has nothing to set them against: use {other} questions"
        )
    good, bad = positive * weights[0], negative * weights[1]
    if not good or not bad or bad <= good <= 4 / 3 * bad:
        return ""
    name, weight = ("desirable", 1.15 * bad / positive)
    if good > bad:
        name, weight = ("undesirable", good / 1.15 / negative)
    advice = float(f"{weight:.2g}")
    return (
        f"the {role} has {positive:,} positive and {negative:,} negative outputs, which KTO's "
        f"authors advise to balance: --train.dpo.roles.{role}.{name}_weight {advice:g}"
    )


def ineffective(stage: str, role: str) -> str:
    return (
        f"{stage} {role}: the adapter has no effect, since its B matrices are all zero: raise "
        f"train.{stage}.learning_rate or its number of steps"
    )
