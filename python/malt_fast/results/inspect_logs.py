"""The evaluation of a run as logs of Inspect, which `inspect view` opens: one log per system.

A question is a sample, every pass of a system an epoch of it, and a vote Inspect's reducer `mode`.
The messages of a sample are the prompts as the roles read them, each with the role's output. Needs
the package inspect_ai, whose own functions write the logs.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malt_fast.evaluation.result import SystemResult
from malt_fast.results.run_contents import RunContents
from malt_fast.results.systems import spelled_out
from malt_fast.results.transcripts import Transcripts
from malt_fast.runs.metrics import is_number
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError
from malt_fast.utils.installing import install_command

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample


def check_inspect() -> None:
    """Raises MaltError unless inspect_ai is installed."""
    try:
        import inspect_ai.log  # noqa: F401
    except ImportError:
        raise MaltError(
            f"--inspect needs the package inspect_ai: {install_command('inspect')}"
        ) from None


def write_inspect_logs(folder: Path, run: RunContents, view: Transcripts) -> None:
    """Write NUMBER-SYSTEM.eval of every system, in the order of the table."""
    from inspect_ai.log import write_eval_log

    questions = [view.question(q) for q in range(len(view.outputs))]
    for number, system in enumerate(view.systems):
        interrupt.check()
        plain = re.sub("[^A-Za-z0-9]+", "-", system.name)
        write_eval_log(
            system_log(run, view, questions, number), folder / f"{number:02}-{plain}.eval"
        )


def system_log(
    run: RunContents, view: Transcripts, questions: Sequence[dict[str, Any]], number: int
) -> "EvalLog":
    """The log of one system. questions: as of Transcripts.question."""
    from inspect_ai import log
    from inspect_ai.model import ModelUsage

    config, system = view.config, view.systems[number]
    scorer, votes = view.task.grader, len(system.passes)
    reducer = "mode" if votes > 1 else None
    samples = [
        pass_sample(view, question, q, system, k)
        for q, question in enumerate(questions)
        for k in range(votes)
    ]
    about, moment = spelled_out(system, config.chain)[1], evaluated_at(run)
    model, tokens = config.model.name_or_path, round(system.tokens_per_question * len(questions))
    spec = log.EvalSpec(
        created=moment,
        task=f"{config.task.name}: {system.name}",
        task_id=f"{run.name}-{number}",
        model=model,
        dataset=log.EvalDataset(
            name=config.task.name,
            samples=len(questions),
            sample_ids=[one.id for one in view.outputs],
        ),
        config=log.EvalConfig(epochs=votes, epochs_reducer=[reducer] if reducer else None),
        metadata={"run": run.name, "system": system.name, "about": about},
    )
    accuracy = log.EvalMetric(name="accuracy", value=system.accuracy)
    score = log.EvalScore(
        name=scorer,
        scorer=scorer,
        reducer=reducer,
        metrics={"accuracy": accuracy},
        metadata={"ci95": list(system.ci95)},
    )
    results = log.EvalResults(
        total_samples=len(samples), completed_samples=len(samples), scores=[score]
    )
    stats = log.EvalStats(
        started_at=moment,
        completed_at=moment,
        model_usage={model: ModelUsage(output_tokens=tokens, total_tokens=tokens)},
    )
    return log.EvalLog(status="success", eval=spec, results=results, stats=stats, samples=samples)


def pass_sample(
    view: Transcripts, question: dict[str, Any], q: int, system: SystemResult, k: int
) -> "EvalSample":
    """One pass of a system over a question."""
    from inspect_ai.log import EvalSample
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageUser,
        ModelOutput,
        ModelUsage,
    )
    from inspect_ai.scorer import Score

    asked, slots, model = view.outputs[q], system.passes[k], view.config.model.name_or_path
    texts, known = question["text"], {"question": asked.text}
    messages: list[ChatMessage] = []
    for turn, slot in zip(system.turns, slots, strict=True):
        prompt = view.prompt(turn, known)
        messages.append(ChatMessageUser(content=prompt, metadata={"role": turn}))
        messages.append(
            ChatMessageAssistant(content=texts[slot], model=model, metadata={"role": turn})
        )
        known[turn] = question["passed"].get(slot, texts[slot])
    last = slots[-1]
    right = question["right"][last] == 1
    stopped = "max_tokens" if question["state"][last] == "cut" else "stop"
    tokens = sum(question["tokens"][slot] for slot in slots)
    return EvalSample(
        id=asked.id,
        epoch=k + 1,
        input=asked.text,
        target=asked.gold,
        messages=messages,
        output=ModelOutput.from_content(model, texts[last], stop_reason=stopped),
        scores={
            view.task.grader: Score(value="C" if right else "I", answer=question["answer"][last])
        },
        model_usage={model: ModelUsage(output_tokens=tokens, total_tokens=tokens)},
    )


def evaluated_at(run: RunContents) -> str:
    """When the evaluation ended, as its line in metrics.jsonl says."""
    times = [line.get("time") for line in run.metrics if line.get("stage") == "evaluation"]
    known = [moment for moment in times if is_number(moment)]
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(known[-1] if known else 0))
