"""README.md of an export: model cards and data cards, as the Hugging Face hub shows them.

Figures come from the run's own files; the licence is the user's to choose.
"""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from malt_fast.config.schema import Config
from malt_fast.config.stages import DPOStageConfig
from malt_fast.engines.vllm import RANKS
from malt_fast.evaluation.result import read_result
from malt_fast.evaluation.tables import as_markdown, main_table
from malt_fast.models.adapter_files import config_of, rank_of
from malt_fast.results.export_rows import Size
from malt_fast.results.opened_run import Adapter
from malt_fast.results.templates import MARKDOWN, code, trusted
from malt_fast.tasks.task import Task
from malt_fast.utils.errors import MaltError, Problems

KINDS = {  # of rows: what they are, and the trainer that reads them
    "sft": Markup("positive outputs (`prompt, completion`), for `SFTTrainer`"),
    "dpo": Markup("sibling pairs (`prompt, chosen, rejected`), for `DPOTrainer`"),
    "kto": Markup("all labelled outputs (`prompt, completion, label`), for `KTOTrainer`"),
    "prm": Markup("turns as steps (`prompt, completions, labels, values`), for reward models"),
}
COUNTED = {"sft": "examples of SFT", "dpo": "sibling pairs", "kto": "labelled outputs"}


@dataclass(frozen=True)
class Facts:
    """What the cards of a run say."""

    name: str
    config: Config | None
    task: Task | None
    results: Markup  # a table in Markdown; empty where there is none
    adapters: Mapping[str, Adapter]
    sizes: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)  # role: its files

    def base(self, role: str) -> str:
        """Hub id or directory of the role's base model; without its file, what the adapter says."""
        if self.config is not None:
            with suppress(MaltError):
                return self.config.base_model(role)
        return str(config_of(str(self.adapters[role].folder)).get("base_model_name_or_path"))


def read_results(run: Path) -> tuple[Markup, Problems]:
    """The result table with its intervals, in Markdown."""
    path = run / "evaluation.json"
    try:
        return trusted(as_markdown(main_table(read_result(path)))), []
    except FileNotFoundError:
        return Markup(), ["results in the cards: the run was not evaluated"]
    except ValueError:
        return Markup(), [f"results in the cards: {path} is damaged or of another version"]


# ---- models ----


def model_card(facts: Facts, role: str, *, merged: bool = False) -> str:
    base, config, task = facts.base(role), facts.config, facts.task
    sizes = facts.sizes.get(role, {})
    return MARKDOWN.get_template("model_card.md").render(
        facts=facts,
        role=role,
        merged=merged,
        base=base,
        base_is_local=Path(base).is_dir(),
        training=_training(config, facts.adapters[role], role) if config else [],
        data=[f"{sizes[kind].rows:,} {name}" for kind, name in COUNTED.items() if kind in sizes],
        command=_serve_merged(facts, role) if merged else _serve_adapters(facts, base),
        prompt=task.prompts[role] if task else None,  # the role was trained on no other
        chat=task is not None and task.chat,
    )


def _training(config: Config, adapter: Adapter, role: str) -> list[tuple[str, str]]:
    tree, lora = config.tree, config.lora
    branching, sign = ",".join(map(str, tree.branching)), "≥" if tree.inclusive else ">"
    stages = ("sft", "dpo") if adapter.stage == "dpo" else ("sft",)
    task = f"{code(config.task.name)}, {config.train.rounds} round(s), seed {config.seed}"
    return [
        ("chain", trusted(" → ".join(code(name) for name in config.chain))),
        ("task", trusted(task)),
        ("trees", f"branching {branching}, positive are values {sign} {tree.threshold:g}"),
        ("training", "; then ".join(_stage(config, stage, role) for stage in stages)),
        ("LoRA", trusted(f"r = {lora.r}, lora_alpha = {lora.lora_alpha:g}")),
    ]


def _stage(config: Config, stage: str, role: str) -> str:
    settings = getattr(config.train, stage).for_role(role)
    steps, epochs = settings.max_steps, settings.num_train_epochs
    length = f"{steps} updates" if steps > 0 else f"{epochs:g} epoch(s)"
    parts = [
        f"{stage.upper()}: {length}, {settings.per_device_train_batch_size} rows per step",
        f"learning rate {settings.learning_rate:g}",
    ]
    if isinstance(settings, DPOStageConfig):
        parts += [f"β = {settings.beta:g}, loss {settings.loss_type}"]
        parts += [f"NLL term {settings.rpo_alpha:g}"] if settings.rpo_alpha else []
    return ", ".join(parts)


def _serve_merged(facts: Facts, role: str) -> str:
    return f"vllm serve merged/{role} --served-model-name {role}{_template(facts)}"


def _serve_adapters(facts: Facts, base: str) -> str:
    """One server for all the adapters that have this base model."""
    same = [name for name in facts.adapters if facts.base(name) == base]
    ranks = [rank_of(str(facts.adapters[name].folder)) for name in same]
    rank = next((r for r in RANKS if r >= max(ranks)), max(ranks))
    modules = " ".join(f"{name}=adapters/{name}" for name in same)
    return (
        f"vllm serve {shlex.quote(base)} --enable-lora --max-loras {len(same)} "
        f"--max-lora-rank {rank} \\\n    --lora-modules {modules}{_template(facts)}"
    )


def _template(facts: Facts) -> str:
    template = facts.config.model.chat_template if facts.config else None
    return f" \\\n    --chat-template {shlex.quote(str(template))}" if template else ""


# ---- data ----


def data_card(facts: Facts, role: str, sizes: Mapping[str, Size]) -> str:
    """sizes: of each file that was written.

    `datasets` caches what it read by the folder's name and the settings in the card, without
    looking at the rows: a description that depends on them keeps the caches of runs apart.
    """
    example = f'from datasets import load_dataset\n\nload_dataset("data/{role}", "sft")["train"]'
    return MARKDOWN.get_template("data_card.md").render(
        facts=facts, role=role, sizes=sizes, kinds=KINDS, example=example
    )
