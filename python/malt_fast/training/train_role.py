"""SFT and DPO of one role on the forest of a round."""

from collections.abc import Mapping

from malt_fast._core.forest import Credit, Forest
from malt_fast.engines import Policy
from malt_fast.forest.datasets import write_datasets
from malt_fast.forest.role_data import RoleData, Stage, role_data
from malt_fast.models.adapter_files import is_untrained
from malt_fast.runs.live_view import View
from malt_fast.runs.run import Run
from malt_fast.sampling.setup import Setup
from malt_fast.training import alarms
from malt_fast.training.stage import StageSpec


def train_role(
    run: Run, setup: Setup, index: int, role: str, forest: Forest, values: Credit, start: Policy
) -> tuple[Policy, Policy]:
    """Train a role from the policy `start`: SFT, then DPO where `train.dpo_roles` has it.

    Returns the policies after SFT and after DPO. A stage with nothing to learn from is skipped.
    """
    config, level = setup.config, setup.config.chain.index(role) + 1

    def stage(name: Stage, start: Policy) -> Policy:
        questions, prompts = setup.question_tokens, setup.prompts
        data = role_data(forest, values, level, questions, prompts, config, name)
        if not data.rows(name):
            what = "example" if name == "sft" else "pair"
            run.warn(f"{name} {role} is skipped: the forest holds no {what} for it")
            return start
        return _train_stage(run, setup, index, StageSpec.of(config, role, name, start), data)

    sft = stage("sft", start)
    return sft, stage("dpo", sft) if role in config.dpo_roles else sft


def _train_stage(run: Run, setup: Setup, index: int, spec: StageSpec, data: RoleData) -> Policy:
    """The policy after a stage of round `index`: trained now, or found in the run directory."""
    from malt_fast.training.train_stage import train_stage  # imports torch and peft

    name, rows = f"{spec.stage} {spec.role}", data.rows(spec.stage)
    out = run.path(f"round-{index}", spec.role, spec.stage)
    policy = Policy(spec.base, str(out.absolute()))
    done, folder = spec.is_done(data, out), run.path(f"round-{index}", "data", spec.role)
    if run.leads and not (done and (folder / f"{spec.stage}.parquet").is_file()):
        write_datasets(data, setup.prompts, folder, spec.stage)
    if done:
        run.say(f"{name}: the adapter of round {index} is there already")
        return policy
    progress = Progress(run, index, spec.stage, spec.role)
    with run.stage(name, facts=progress.facts, round=index) as (view, figures):
        metrics = train_stage(spec, data, out, lambda line: progress.add(line, view)).metrics
        if run.leads and is_untrained(str(out)):
            run.warn(alarms.ineffective(spec.stage, spec.role), "ineffective")
        figures["examples" if spec.stage == "sft" else "pairs"] = rows
        figures |= {key: metrics[key] for key in ("first_loss", "train_loss") if key in metrics}
    return policy


class Progress:
    """The log lines of one stage: shown, written to metrics.jsonl, and watched for a collapse."""

    def __init__(self, run: Run, index: int, stage: Stage, role: str) -> None:
        self.run, self.index, self.stage, self.role = run, index, stage, role
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.warned = False

    def add(self, line: dict[str, float], view: View) -> None:
        tokens = line.get("num_tokens", 0) - self.last.get("num_tokens", 0)
        self.first, self.last = self.first or line, self.last | line
        steps = {"at": int(line["step"]), "total": int(line["max_steps"])}
        view.advance(**steps, tokens=max(0, int(tokens)))
        self.run.log(f"{self.stage}/{self.role}", round=self.index, **line)
        warning = alarms.collapsing(self.role, self.first, line)
        if warning and not self.warned:
            self.run.warn(warning, "collapsing")
            self.warned = True

    def facts(self) -> list[str]:
        return training_facts(self.last)


def training_facts(line: Mapping[str, float]) -> list[str]:
    """The figures of a log line that the live view shows."""
    names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    return [" · ".join(f"{name} {line[key]:.3f}" for key, name in names.items() if key in line)]
