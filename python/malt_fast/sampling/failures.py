"""Outputs that fail while trees are sampled: how many, why the first one did, and one warning."""

from collections.abc import Sequence
from typing import Any

from malt_fast.engines import Completion
from malt_fast.sampling.signs import Warn


class Failures:
    """Counts failed outputs, and warns of the first one."""

    def __init__(self, warn: Warn) -> None:
        self.warn = warn
        self.nodes = 0  # without an output: those that failed, and all that would read them
        self.first = ""  # the engine's reason for the first of them

    def see(self, completions: Sequence[Completion], failed: Sequence[int]) -> None:
        """failed: the nodes that have no output because of the errors among `completions`."""
        self.nodes += len(failed)
        errors = [one.error for one in completions if one.finish_reason == "error"]
        if errors and not self.first:
            self.first = errors[0]
            self.warn(f"an output failed, and with it all that read it: {self.first}", "failed")

    def figures(self) -> dict[str, Any]:
        """For the line of a stage: `failed` nodes, and `first_failure` if there is one."""
        return {"failed": self.nodes} | ({"first_failure": self.first} if self.first else {})
