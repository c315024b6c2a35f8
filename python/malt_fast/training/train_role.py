"""SFT and DPO of one role on the forest of a round."""

from collections.abc import Mapping
from pathlib import Path

from malt_fast._core.forest import Credit, Forest
from malt_fast.config.stages import DPOStageConfig
from malt_fast.engines import Policy
from malt_fast.forest.datasets import (
    NAMES,
    counts_of,
    has_datasets,
    remove_datasets,
    write_datasets,
)
from malt_fast.forest.role_data import RoleData, Stage, role_data
from malt_fast.models.adapter_files import is_untrained
from malt_fast.runs.live_view import View
from malt_fast.runs.run import Run
from malt_fast.sampling.setup import Setup
from malt_fast.training import alarms
from malt_fast.training.stage import Choice, StageSpec
from malt_fast.utils.files import make_folder, write_text


def train_role(
    run: Run, setup: Setup, index: int, role: str, forest: Forest, values: Credit, start: Policy
) -> tuple[Policy, Policy]:
    """Train a role from the policy `start`: SFT, then DPO where `train.dpo_roles` has it.

    Returns the policies after SFT and after DPO. A stage with nothing to learn from is skipped.
    """
    config, level = setup.config, setup.config.chain.index(role) + 1

    def stage(name: Stage, start: Policy) -> Policy:
        questions, prompts = setup.task.train, setup.prompts
        data = role_data(forest, values, level, questions, prompts, config, name)
        if not data.rows(name):
            on_pairs = config.train.dpo.for_role(role).on_pairs
            what = "example" if name == "sft" else "pair" if on_pairs else "labelled output"
            run.warn(f"{name} {role} is skipped: the forest holds no {what} for it")
            if run.leads:
                remove_datasets(run.path(f"round-{index}", "data", role), name)
            return start
        spec = StageSpec.of(config, role, name, start)
        return train_in_run(run, setup, f"round-{index}", spec, data, round=index)

    sft = stage("sft", start)
    if role in config.dpo_roles:
        return sft, stage("dpo", sft)
    if run.leads:
        remove_datasets(run.path(f"round-{index}", "data", role), "dpo")
    return sft, sft


def train_in_run(
    run: Run, setup: Setup, folder: str, spec: StageSpec, data: RoleData, **where: int
) -> Policy:
    """The policy after a stage, in a folder of the run: trained now, or found there.

    where: the round, for its log lines.
    """
    from malt_fast.training.train_stage import train_stage  # imports torch and peft

    warm = "" if where else "warm "
    name, counts = f"{warm}{spec.stage} {spec.role}", counts_of(data, spec.stage)
    out = run.path(folder, spec.role, spec.stage)
    policy = Policy(spec.base, str(out.absolute()))
    done, datasets = spec.is_done(data, out), run.path(folder, "data", spec.role)
    if run.leads:
        _keep_datasets(setup, spec, data, datasets, out.with_name(f"{spec.stage}.data.txt"))
    if done:
        run.say(f"{name}: {out.relative_to(run.folder)} is there already")
        return policy
    if "kto" in counts and isinstance(spec.args, DPOStageConfig):
        good = int(data.labelled[:, 1].sum())
        balance = (spec.args.desirable_weight, spec.args.undesirable_weight)
        if warning := alarms.unbalanced(spec.role, good, counts["kto"] - good, balance):
            run.warn(warning, "unbalanced")
    progress = Progress(run, f"{warm}{spec.stage}/{spec.role}", spec, where)
    with run.stage(name, facts=progress.facts, **where) as (view, figures):
        metrics = train_stage(
            spec, data, out, lambda line: progress.add(line, view), progress.start
        ).metrics
        if run.leads and is_untrained(str(out)):
            run.warn(alarms.ineffective(spec.stage, spec.role), "ineffective")
        figures |= {NAMES[kind]: n for kind, n in counts.items()}
        figures |= {key: metrics[key] for key in ("first_loss", "train_loss") if key in metrics}
    return policy


def _keep_datasets(setup: Setup, spec: StageSpec, data: RoleData, folder: Path, note: Path) -> None:
    """Write the rows of a stage as datasets, unless `note` says that they are there.

    A run with other settings may have written its own, and been killed before it trained. The note
    also says how many tokens the stage trains on.
    """
    made_from = f"{spec.fingerprint(data)}\n{spec.tokens(data)} tokens\n"
    noted = note.is_file() and note.read_bytes() == made_from.encode()
    if not (noted and has_datasets(folder, counts_of(data, spec.stage))):
        make_folder(note.parent)
        write_text(note, "")
        write_datasets(data, setup.prompts, folder, spec.stage)
        write_text(note, made_from)


class Progress:
    """The log lines of one stage: shown, written to metrics.jsonl, and watched for a collapse."""

    def __init__(self, run: Run, name: str, spec: StageSpec, where: Mapping[str, int]) -> None:
        """name, where: of the log lines."""
        self.run, self.name, self.role, self.where = run, name, spec.role, where
        dpo = spec.args if isinstance(spec.args, DPOStageConfig) else None
        self.beta = dpo.beta if dpo else 1.0
        self.on_pairs = dpo is None or dpo.on_pairs is not None
        self.last: dict[str, float] = {}
        self.warned = False

    def start(self, choice: Choice) -> None:
        """Print and log how much memory the stage will take."""
        self.run.say(f"{self.name}: {choice}")
        self.run.log(f"memory {self.name}", **self.where, **choice.figures())

    def add(self, line: dict[str, float], view: View) -> None:
        tokens = line.get("num_tokens", 0) - self.last.get("num_tokens", 0)
        self.last |= line
        steps = {"at": int(line["step"]), "total": int(line["max_steps"])}
        view.advance(**steps, tokens=max(0, int(tokens)))
        self.run.log(self.name, **self.where, **line)
        warning = alarms.collapsing(self.role, line, self.beta, self.on_pairs)
        if warning and not self.warned:
            self.run.warn(warning, "collapsing")
            self.warned = True

    def facts(self) -> list[str]:
        return training_facts(self.last)


def training_facts(line: Mapping[str, float]) -> list[str]:
    """The figures of a log line that the live view shows."""
    names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    return [" · ".join(f"{name} {line[key]:.3f}" for key, name in names.items() if key in line)]
