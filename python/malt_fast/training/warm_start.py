"""SFT of roles on demonstrations before anything is sampled, where a base is too weak to begin."""

from malt_fast.engines import Policies
from malt_fast.runs.run import Run
from malt_fast.sampling.setup import Setup
from malt_fast.training.stage import StageSpec
from malt_fast.training.train_role import train_in_run


def warm_start(run: Run, setup: Setup) -> Policies:
    """The policies that the method begins with: base models, under an adapter where there are
    demonstrations of the role."""
    start = setup.base()
    for role, data in setup.demonstrations.items():
        spec = StageSpec.of(setup.config, role, "sft", start[role])
        start[role] = train_in_run(run, setup, "warm", spec, data)
    return start
