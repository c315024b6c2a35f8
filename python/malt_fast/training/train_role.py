"""SFT and DPO of one role on the forest of a round."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from malt_fast.config.load import dump
from malt_fast.config.schema import Config
from malt_fast.engines import Policies, Policy
from malt_fast.forest.datasets import write_datasets
from malt_fast.forest.forest import Credit, Forest
from malt_fast.forest.role_data import role_data
from malt_fast.models.adapter_files import is_untrained
from malt_fast.runs.run import Run
from malt_fast.sampling.setup import Setup
from malt_fast.training import alarms
from malt_fast.utils.files import make_folder, replacing_folder, write_text


def train_stages(
    run: Run, setup: Setup, index: int, level: int, forest: Forest, values: Credit, start: Policy
) -> tuple[Policy, Policy]:
    """SFT of a role, then DPO where it gets it; the policies after each."""
    sft = train_role(run, setup, index, level, "sft", forest, values, start)
    if setup.config.chain[level - 1] not in setup.config.dpo_roles:
        return sft, sft
    return sft, train_role(run, setup, index, level, "dpo", forest, values, sft)


def train_role(
    run: Run,
    setup: Setup,
    index: int,
    level: int,
    stage: Literal["sft", "dpo"],
    forest: Forest,
    values: Credit,
    start: Policy,
) -> Policy:
    """Train one stage of one role from `start`; `start` itself if there is nothing to train on."""
    from malt_fast.training.stage import (  # imports torch and peft
        is_done,
        stage_fingerprint,
        train_stage,
    )

    config, role = setup.config, setup.config.chain[level - 1]
    out = run.path(f"round-{index}", role, stage)
    trained = Policy(start.base, str(out.absolute()))
    questions = [setup.prompts.encode_question(question.text) for question in setup.task.train]
    data = role_data(
        forest, values, level, questions, setup.prompts, config.preferences, config.seed, stage
    )
    rows = len(data.completions) if stage == "sft" else len(data.pairs)
    if not rows:
        what = "example" if stage == "sft" else "pair"
        run.warn(f"{stage} {role} is skipped: the forest holds no {what} for it")
        return start
    weights = stage_weights(config, role, stage, start)
    made_from = stage_fingerprint(stage, data, **weights)
    done, rows_of = is_done(out, made_from), run.path(f"round-{index}", "data", role)
    if run.leads and not (done and (rows_of / f"{stage}.parquet").is_file()):
        write_datasets(data, setup.prompts, rows_of, stage)
    if done:
        run.say(f"{stage} {role}: the adapter of round {index} is there already")
        return trained
    make_folder(out.parent)
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    signs: set[str] = set()
    shows = run.stage(f"{stage} {role}", facts=lambda: training_facts(last), round=index)
    with shows as (shown, figures):

        def on_log(line: dict[str, float]) -> None:
            nonlocal first, last
            tokens = line.get("num_tokens", 0) - last.get("num_tokens", 0)
            first, last = first or line, {**last, **line}
            steps = {"at": int(line["step"]), "total": int(line["max_steps"])}
            shown.advance(**steps, tokens=max(0, int(tokens)))
            run.log(f"{stage}/{role}", round=index, **line)
            sign = alarms.collapsing(role, first, line)
            if sign and not signs:
                signs.add(sign)
                run.warn(sign, "collapsing")

        result = train_stage(
            stage,
            data,
            **weights,
            out=out,
            fingerprint=made_from,
            **stage_work(config),
            on_log=on_log,
        )
        if run.leads and is_untrained(str(out)):
            run.warn(alarms.ineffective(stage, role), "ineffective")
        figures["examples" if stage == "sft" else "pairs"] = rows
        figures |= {
            key: result.metrics[key]
            for key in ("first_loss", "train_loss")
            if key in result.metrics
        }
    return trained


def stage_weights(
    config: Config, role: str, stage: Literal["sft", "dpo"], start: Policy
) -> dict[str, Any]:
    """What decides the weights that `train_stage` comes to, beside the data."""
    return {
        "base": start.base,
        "init_adapter": None if start.adapter is None else Path(start.adapter),
        "lora": config.lora,
        "args": getattr(config.train, stage).for_role(role),
        "reference": config.train.reference,
        "dtype": config.model.dtype,
        "load_in_4bit": config.train.load_in_4bit,
        "seed": config.seed,
    }


def stage_work(config: Config) -> dict[str, Any]:
    """How `train_stage` gets there."""
    return {
        "layout": config.train.packing,
        "pack_tokens": config.train.pack_tokens,
        "device": config.model.device,
        "trust_remote_code": config.model.trust_remote_code,
    }


def publish(run: Run, sft: Policies, final: Policies) -> None:
    """Copy the adapters of the last round to adapters/ROLE/{sft,final}, where servers find them.

    All or none: a role whose adapter is missing counts as untrained. adapters/config.yaml is what
    they were trained with: the run's own may be changed before anything is made of it.
    """
    with replacing_folder(run.path("adapters")) as folder:
        write_text(folder / "config.yaml", dump(run.config))
        for name, policies in (("sft", sft), ("final", final)):
            for role, policy in policies.items():
                if policy.adapter is not None:
                    shutil.copytree(policy.adapter, folder / role / name)


def training_facts(line: Mapping[str, float]) -> list[str]:
    """Of a log line of training."""
    names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    return [" · ".join(f"{name} {line[key]:.3f}" for key, name in names.items() if key in line)]
