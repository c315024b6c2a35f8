"""The README.md of what is exported: model cards and data cards, as the Hugging Face hub has them.

Figures come from the run's own files; a licence is the user's to choose.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from malt_fast.config.schema import Config, DPOStageConfig
from malt_fast.engines.vllm import RANKS
from malt_fast.evaluation.tables import as_markdown, main_table
from malt_fast.models.adapter_files import config_of, rank_of
from malt_fast.results.export_rows import Size
from malt_fast.results.opened_run import Adapter
from malt_fast.runs.metrics import Lacking
from malt_fast.tasks.task import Task
from malt_fast.utils.files import read_checked

KINDS = {  # of rows: what they are, and what they are for
    "sft": "positive outputs (`prompt, completion`), for `SFTTrainer`",
    "dpo": "sibling pairs (`prompt, chosen, rejected`), for `DPOTrainer`",
    "kto": "all labelled outputs (`prompt, completion, label`), for `KTOTrainer`",
    "prm": "turns as steps (`prompt, completions, labels, values`), for process-reward models",
}
METHOD = (
    "[malt-fast](https://arxiv.org/abs/2412.01928): outputs are sampled as a tree under every "
    "question, leaves graded, outcomes averaged up the tree"
)
SYSTEMS = (
    "SA is one answer of the untrained first role, MA the untrained chain, STaR the chain after "
    "SFT, MALT the trained one, `-role` with that role untrained; MV@k: majority of k passes."
)


@dataclass(frozen=True)
class Facts:
    """What cards tell of a run."""

    name: str
    config: Config | None
    task: Task | None
    results: str  # a table; empty where there is none
    adapters: Mapping[str, Adapter]
    sizes: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)  # of roles' files

    def base(self, role: str) -> str:
        """Hub id or directory of the role's base model."""
        if self.config is not None:
            return self.config.base_model(role)
        return str(config_of(str(self.adapters[role].folder)).get("base_model_name_or_path"))


def read_results(run: Path, lacking: Lacking) -> str:
    """The result table with its intervals, as Markdown; empty, and a line, where there is none."""
    path = run / "evaluation.json"
    try:
        return as_markdown(main_table(read_checked(path)))
    except FileNotFoundError:
        lacking.append("results in the cards: the run was not evaluated")
    except (ValueError, LookupError, TypeError, AttributeError):
        lacking.append(f"results in the cards: {path} is damaged or of another version")
    return ""


# ---- models ----


def model_card(facts: Facts, role: str, *, merged: bool = False) -> str:
    base, kind = facts.base(role), "merged checkpoint" if merged else "LoRA adapter"
    head = ["library_name: " + ("transformers" if merged else "peft")]
    head += [] if Path(base).is_dir() else [f"base_model: {json.dumps(base)}"]
    head += ["pipeline_tag: text-generation", "tags: [malt]"]
    title = f"# {role} of {facts.name}"
    intro = f"A {kind} of the {role}, trained by {METHOD}, and SFT and DPO learn from the values."
    sections = [
        "\n".join(["---", *head, "---"]),
        title,
        intro,
        _table(facts, role, base),
        "## Results",
        f"{facts.results}\n{SYSTEMS}" if facts.results else "The run was not evaluated.",
        _serving(facts, role, base, merged),
        _asking(facts, role),
        _licence(base),
    ]
    return "\n\n".join(part.strip() for part in sections if part) + "\n"


def _table(facts: Facts, role: str, base: str) -> str:
    rows = {"base model": f"`{base}`", "role": f"`{role}`"}
    if facts.config is not None:
        rows |= _training(facts.config, facts.adapters[role], role)
    sizes = facts.sizes.get(role, {})
    told = [f"{sizes[kind].rows:,} {name}" for kind, name in COUNTED.items() if kind in sizes]
    rows["data"] = ", ".join(told) or "not exported"
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


COUNTED = {"sft": "examples of SFT", "dpo": "sibling pairs", "kto": "labelled outputs"}


def _training(config: Config, adapter: Adapter, role: str) -> dict[str, str]:
    tree, lora = config.tree, config.lora
    branching, sign = ",".join(map(str, tree.branching)), "≥" if tree.inclusive else ">"
    stages = ("sft", "dpo") if adapter.stage == "dpo" else ("sft",)
    return {
        "chain": " → ".join(f"`{name}`" for name in config.chain),
        "task": f"`{config.task.name}`, {config.train.rounds} round(s), seed {config.seed}",
        "trees": f"branching {branching}, positive are values {sign} {tree.threshold:g}",
        "training": "; then ".join(_stage(config, stage, role) for stage in stages),
        "LoRA": f"r = {lora.r}, lora_alpha = {lora.lora_alpha:g}",
    }


def _stage(config: Config, stage: str, role: str) -> str:
    settings = getattr(config.train, stage).for_role(role)
    steps, epochs = settings.max_steps, settings.num_train_epochs
    length = f"{steps} updates" if steps > 0 else f"{epochs:g} epoch(s)"
    told = f"{stage.upper()}: {length}, {settings.per_device_train_batch_size} rows a step"
    told += f", learning rate {settings.learning_rate:g}"
    if isinstance(settings, DPOStageConfig):
        told += f", β = {settings.beta:g}, loss {settings.loss_type}"
        told += f", NLL term {settings.rpo_alpha:g}" if settings.rpo_alpha else ""
    return told


def _serving(facts: Facts, role: str, base: str, merged: bool) -> str:
    if merged:
        command = f"vllm serve merged/{role} --served-model-name {role}"
    else:
        same = [name for name in facts.adapters if facts.base(name) == base]
        ranks = [rank_of(str(facts.adapters[name].folder)) for name in same]
        rank = next((r for r in RANKS if r >= max(ranks)), max(ranks))
        modules = " ".join(f"{name}=adapters/{name}" for name in same)
        command = (
            f"vllm serve {shlex.quote(base)} --enable-lora --max-loras {len(same)} "
            f"--max-lora-rank {rank} \\\n    --lora-modules {modules}"
        )
    template = facts.config.model.chat_template if facts.config is not None else None
    command += f" \\\n    --chat-template {shlex.quote(str(template))}" if template else ""
    return f"## Serving\n\nIn the folder of the export:\n\n{_fenced(command)}"


def _asking(facts: Facts, role: str) -> str:
    """The wording that the role was trained on: it knows no other."""
    if facts.task is None:
        return ""
    prompt = facts.task.prompts[role]
    user = "The user's turn of a chat" if facts.task.chat else "Plain text, for completions"
    told = f"{user}; in braces the question, and the outputs of earlier roles:"
    parts = ["## Prompt", told, _fenced(prompt.user)]
    if prompt.system is not None:
        before = "The system's turn:" if facts.task.chat else "Before it, and an empty line:"
        parts += [before, _fenced(prompt.system)]
    return "\n\n".join(parts)


def _licence(base: str) -> str:
    return (
        "## Licence\n\nNone is chosen here: whoever publishes this does, within the terms of "
        f"`{base}` and of the questions."
    )


# ---- data ----


def data_card(facts: Facts, role: str, sizes: Mapping[str, Size]) -> str:
    """sizes: of each file that is there.

    `datasets` keeps what it read under the name of the folder and the settings in the card, without
    a look at the rows: a description that changes with them keeps runs apart.
    """
    configs = ["configs:"] if sizes else []
    for kind, size in sizes.items():
        configs += [f"- config_name: {kind}", f"  data_files: {kind}.parquet"]
        configs += [f"  description: {size.rows} rows, xxh3 {size.content}"]
    example = f'from datasets import load_dataset\n\nload_dataset("data/{role}", "sft")["train"]'
    sections = [
        "\n".join(["---", *configs, "tags: [malt, trl]", "---"]),
        f"# What the {role} of {facts.name} learned from",
        f"Made by {METHOD}.",
        "\n".join(
            ["| name | rows | not `exact` | what |", "|---|---:|---:|---|"]
            + [
                f"| `{kind}` | {n:,} | {'' if kind == 'prm' else odd} | {KINDS[kind]} |"
                for kind, (n, odd, _) in sizes.items()
            ]
        ),
        f"In the folder of the export:\n\n{_fenced(example)}",
        COLUMNS,
        _licence(facts.base(role)),
    ]
    return "\n\n".join(sections) + "\n"


COLUMNS = """Beside TRL's columns, which it ignores:

| column | meaning |
|---|---|
| `exact` | whether the tokenizer makes of the text, as TRL asks it, the tokens that were sampled |
| `*_ids` | those tokens: of the prompt, and of the output with its end token if it has one |
| `node`, `nodes`, `*_node` | place in the round's forest |
| `value`, `values`, `*_value` | mean outcome below that output: 1 where all its leaves are right |
| `question`, `round` | the question's id; the round of sampling and training, from 0 |
| `ref_*_logps` | log-probs of `*_ids` under DPO's reference, summed, where the run has them |"""


def _fenced(text: str) -> str:
    """In a fence longer than any within."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
