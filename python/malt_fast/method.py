"""The method: Algorithm 1 of arXiv 2412.01928.

Sample a tree of outputs under every question, grade the leaves, average the outcomes up the tree,
label every node, train one adapter per role (SFT on positive outputs, then DPO on sibling pairs),
and evaluate the trained chain beside its baselines. `python -m malt_fast.train` runs it.
"""

from malt_fast.config.schema import Config
from malt_fast.engines import Policies
from malt_fast.evaluation.run import evaluate_run
from malt_fast.forest.credit import assign_credit
from malt_fast.planning.plan import make_plan, plan_long_run
from malt_fast.planning.plan_facts import fill_facts
from malt_fast.planning.schedule import schedule
from malt_fast.results.write_report import write_final_report
from malt_fast.runs.run import Run
from malt_fast.runs.saved import publish
from malt_fast.sampling.prepare import prepare, start_run
from malt_fast.sampling.round_forest import forest_name, report_yield, round_forest
from malt_fast.sampling.setup import Setup
from malt_fast.training.side_by_side import train_side_by_side
from malt_fast.training.train_role import train_role
from malt_fast.training.warm_start import warm_start
from malt_fast.utils import distributed


def train(config: Config, plan: int | None = None) -> Run:
    """The whole method: rounds of sampling and training, then the evaluation.

    plan: only estimate what all of that will take, by a probe of this many questions.
    """
    setup = prepare(config)
    with start_run(setup) as run:
        if plan is not None:
            make_plan(run, setup, plan)
            return run
        plan_long_run(run, setup)
        run.schedule = schedule(run)
        sft = final = start = warm_start(run, setup)
        for index in range(config.train.rounds):
            sft, final = train_round(run, setup, index, final)
        distributed.leave_process_group()
        if run.leads:
            publish(run, sft, final)
            if config.engine.name == "replay":
                run.warn("recordings do not cover trained roles: the run is not evaluated")
            else:
                evaluate_run(run, setup, start, sft, final)
            fill_facts(run)
            write_final_report(run)
    return run


def train_round(run: Run, setup: Setup, index: int, start: Policies) -> tuple[Policies, Policies]:
    """One round from the policies `start`: the policies after SFT, and those after DPO.

    All roles learn from one forest, or under `regenerate: sequential` each from a forest in which
    the roles before it are already trained.
    """
    config, sft, final = setup.config, dict(start), dict(start)
    for role in config.chain:
        if role == config.chain[0] or config.train.regenerate == "sequential":
            name = forest_name(config, role)
            forest = round_forest(run, setup, index, name, final)
            values = assign_credit(config.tree, forest)
            report_yield(run, setup, index, name, forest, values)
        if config.train.side_by_side:
            return train_side_by_side(run, index, start)
        stages = train_role(run, setup, index, role, forest, values, start[role])
        sft[role], final[role] = stages
    return sft, final
