"""The report of a large run: time to write it, and response times in a browser.

    python benchmarks/bench_report.py [--questions N] [--run DIR] [--json FILE]

Makes a run of N questions (10,000) with three outputs per role and parent (390,000 in all), and an
evaluation of 1,319 held-out questions (the number of GSM8K's) with 45 outputs each. Their texts are
words with the frequencies of this project's documentation: drafts of 75 words, critiques of 60,
refinements of 90 on average. Writes the report, opens it from the disk in headless Chromium, and
measures the first paint, the time from the click on a question to its drawn tree or transcript (50
questions each, each in another chunk), the time of a search, and the memory of the page. --run uses
another run, which must be evaluated.
"""

import argparse
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import environment, print_table, write_json
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from malt_fast.config.load import dump, make_config  # noqa: E402
from malt_fast.config.schema import Config  # noqa: E402
from malt_fast.engines import Policies, Policy  # noqa: E402
from malt_fast.evaluation.design import EvaluationDesign  # noqa: E402
from malt_fast.evaluation.judge import Judged  # noqa: E402
from malt_fast.evaluation.outputs import OUTPUTS, write_outputs  # noqa: E402
from malt_fast.evaluation.result import write_result  # noqa: E402
from malt_fast.evaluation.scores import summarise  # noqa: E402
from malt_fast.evaluation.shape import build_shape  # noqa: E402
from malt_fast.evaluation.systems import Training, systems_of  # noqa: E402
from malt_fast.forest.build import build_forest  # noqa: E402
from malt_fast.forest.file import save_forest  # noqa: E402
from malt_fast.results.viewer_data import MOST  # noqa: E402
from malt_fast.results.write_report import write_report  # noqa: E402
from malt_fast.sampling.prepare import load_prompts  # noqa: E402
from malt_fast.store.segments import Sample  # noqa: E402
from malt_fast.store.store import open_store  # noqa: E402
from malt_fast.tasks.load import load_task  # noqa: E402
from malt_fast.tasks.task import Question  # noqa: E402
from malt_fast.utils.files import content_checksum  # noqa: E402
from tests.results.browser import Browser, open_browser  # noqa: E402

WORDS = {1: 75, 2: 60, 3: 90}  # per output, by level
PARENTS = [-1] * 3 + [i // 3 for i in range(9)] + [3 + i // 3 for i in range(27)]
LEVEL = [1] * 3 + [2] * 9 + [3] * 27
CLICKS = 50
HELD_OUT = 1319
OPENED = """
const done = arguments[arguments.length - 1], [view, n] = arguments, begun = performance.now();
const question = document.querySelector(`#${view} .side > div`);
new MutationObserver((_, watcher) => {
  watcher.disconnect();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
}).observe(question, { childList: true });
document.querySelector(`#${view} [data-tree="${n}"]`).click();
"""
SEARCH = """
const field = document.getElementById("t-search"), begun = performance.now();
field.value = arguments[0];
field.dispatchEvent(new Event("input"));
return performance.now() - begun;
"""


def vocabulary() -> tuple[list[str], list[int]]:
    """Words of the documentation and their counts."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("**/*.md"))]
    counts = Counter(re.findall(r"[A-Za-z]+", " ".join(texts)))
    words = sorted(counts)
    return words, [counts[word] for word in words]


def write_model(folder: Path, words: list[str]) -> None:
    """A tokenizer with one token per word; no weights, because a report needs none."""
    names = ["<unk>", "</s>", "Final", "Answer:", *map(str, range(100))]
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*names, *words]))}
    model = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(folder)
    LlamaConfig(vocab_size=len(vocab), hidden_size=64).save_pretrained(folder)


def make_run(folder: Path, questions: int) -> None:
    """A run directory as training and evaluation leave it, without adapters."""
    rng = np.random.default_rng(0)
    words, counts = vocabulary()
    write_model(folder.parent / "model", words)
    share = np.array(counts) / sum(counts)
    data = folder.parent / "questions.jsonl"
    asked = [" ".join(rng.choice(words, 45, p=share)) for _ in range(questions)]
    lines = [
        f'{{"id": "q-{i}", "text": "{text}", "gold": "{i % 100}"}}\n'
        for i, text in enumerate(asked)
    ]
    data.write_text("".join(lines))
    given = {"name": "jsonl", "path": str(data), "grader": "number"}
    prompts = folder.parent / "prompts.yaml"
    wording = {role: {"user": "{question}"} for role in ("generator", "verifier", "refiner")}
    prompts.write_text(json.dumps({"chat": False, "prompts": wording}))
    model = {"name_or_path": str(folder.parent / "model")}
    config = make_config({"task": given | {"prompts": str(prompts)}, "model": model})
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(config))
    shutil.copy(data, folder / "questions.jsonl")
    task = load_task(config, questions=False)
    made = load_prompts(config, task)
    (folder / "prompts.json").write_text(made.as_json())
    (folder / "metrics.jsonl").write_text("")
    write = Writer(made.tokenizer.get_vocab(), words, share, rng)
    fill(folder, questions, write)
    fill_evaluation(folder, config, list(read_questions(data, HELD_OUT)), write)


class Writer:
    """Writes the outputs of a question: easy questions are answered correctly more often."""

    def __init__(self, vocab: dict[str, int], words: list[str], share: Any, rng: Any) -> None:
        self.vocab, self.share, self.rng = vocab, share, rng
        self.ids = np.array([vocab[word] for word in words], np.int32)
        self.ending = [vocab["Final"], vocab["Answer:"]]

    def outputs(
        self, name: str, gold: int, levels: Sequence[int]
    ) -> tuple[list[Sample], list[int]]:
        """A sample per level, and the answer that it states, -1 for none."""
        rng, easy = self.rng, self.rng.random()
        samples, answers = [], []
        sizes = rng.poisson([WORDS[level] for level in levels])
        texts = np.split(rng.choice(self.ids, sizes.sum(), p=self.share), sizes.cumsum()[:-1])
        for level, text in zip(levels, texts, strict=True):
            said = gold if rng.random() < easy else int(rng.integers(100))
            stated = [] if level == 2 else [*self.ending, self.vocab[str(said)]]
            tokens = np.concatenate([text, stated, [self.vocab["</s>"]]]).astype(np.int32)
            logprobs = np.zeros(len(tokens), np.float32)
            samples.append(Sample(rng.bytes(16), name, (0,), 0, tokens, logprobs))
            answers.append(-1 if level == 2 else said)
        return samples, answers


def read_questions(path: Path, most: int) -> Iterator[Question]:
    for line in path.read_text().splitlines()[:most]:
        row = json.loads(line)
        yield Question(row["id"], row["text"], row["gold"])


def fill(folder: Path, questions: int, write: Writer) -> None:
    """The samples, and the forest over them."""
    (folder / "round-0").mkdir()
    store = open_store(folder / "samples")
    outcomes: list[int] = []
    for question in range(questions):
        gold = question % 100
        samples, answers = write.outputs(f"q-{question}", gold, LEVEL)
        outcomes += [
            int(said == gold) if level == 3 else 255
            for level, said in zip(LEVEL, answers, strict=True)
        ]
        store.append(samples)
        store.commit_if_due()
    store.commit_all()
    size = 1 + len(PARENTS)
    rows = np.full(questions * size, -1, np.int64).reshape(questions, size)
    rows[:, 1:] = np.arange(questions * (size - 1)).reshape(questions, -1)
    forest = build_forest(PARENTS, questions, rows.ravel(), store)
    assert forest is not None
    leaves = np.flatnonzero(forest.level == 3).astype(np.uint32)
    graded = np.array(outcomes, np.uint8)
    forest.set_outcomes(leaves, graded[graded != 255])
    asked = content_checksum((folder / "questions.jsonl").read_bytes())
    made_from = "", "", PARENTS, rows.ravel(), asked
    save_forest(folder / "round-0" / "forest.arrows", forest, store, *made_from)


def fill_evaluation(
    folder: Path, config: Config, questions: Sequence[Question], write: Writer
) -> None:
    """An evaluation of the standard suite; all that it measures are numbers drawn here."""
    numbers = {role: level for level, role in enumerate(config.chain, 1)}
    policies: dict[Training, Policies] = {
        training: {role: Policy("m", f"{training}/{role}") for role in config.chain}
        for training in ("base", "sft", "final")
    }
    systems = systems_of(config.chain, config.evaluate.votes)
    shape, used = build_shape(systems, numbers, policies)
    own = {one.name: (one, slots) for one, slots in zip(systems, used, strict=True)}
    store, levels = open_store(folder / "samples"), [slot.role for slot in shape]
    first, said = store.next_row, []
    for question in questions:
        samples, answers = write.outputs(question.id, int(question.gold), levels)
        said.append(answers)
        store.append(samples)
        store.commit_if_due()
    store.commit_all()
    size = 1 + len(shape)
    rows = np.full((len(questions), size), -1, np.int64)
    rows[:, 1:] = first + np.arange(len(questions) * len(shape)).reshape(len(questions), -1)
    parents = [slot.parent for slot in shape]
    forest = build_forest(parents, len(questions), rows.ravel(), store)
    assert forest is not None
    save_forest(folder / "evaluation.arrows", forest, store, "drawn", "", parents, rows.ravel(), "")
    answers_of = np.array(said)
    right = answers_of == np.array([int(one.gold) for one in questions])[:, None]
    design = EvaluationDesign(questions, shape, own, {})
    judged = Judged(answers_of, right, forest.token_len.reshape(-1, size)[:, 1:].astype(np.int64))
    checksum = write_outputs(folder / OUTPUTS, judged, design, config)
    result = summarise(judged, design, config)
    kept = {"sampled_from": "drawn", "outputs": checksum}
    write_result(folder / "evaluation.json", result.model_copy(update=kept))


def clicks(browser: Browser, view: str, questions: int) -> list[float]:
    """Waiting times from clicks on questions to what they show, in ms."""
    found = []
    for n in random.Random(0).sample(range(questions), min(CLICKS, questions)):
        browser.run(f"document.querySelector('#{view} .list').scrollTop = {46 * n}")
        browser.wait(f"document.querySelector('#{view} [data-tree=\"{n}\"]')")
        found.append(browser.ask("post", "execute/async", script=OPENED, args=[view, n]))
    return found


def use(browser: Browser, page: Path, questions: int) -> dict[str, Any]:
    """Waiting times of a reader, in ms."""
    begun = time.perf_counter()
    browser.open(page)
    loaded = 1000 * (time.perf_counter() - begun)
    paint = browser.run(
        "return performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
    )
    begun = time.perf_counter()
    browser.click("nav a[href='#trees']")
    browser.wait("document.querySelectorAll('.node').length")
    ready = 1000 * (time.perf_counter() - begun)
    trees = clicks(browser, "trees", min(questions, MOST))
    searches = [
        browser.run(SEARCH, words) for words in ("q-7", "the", "a long search for nothing", "")
    ]
    browser.click("nav a[href='#transcripts']")
    browser.wait("document.querySelectorAll('#h-detail .card').length")
    told = browser.run("return JSON.parse(document.querySelector('#transcripts-meta').textContent)")
    transcripts = clicks(browser, "transcripts", told["questions"])
    heap = browser.run("return performance.memory.usedJSHeapSize")
    return {
        "first_contentful_paint_ms": paint[0],
        "loaded_ms": loaded,
        "first_tree_drawn_ms": ready,
        "trees_opened": len(trees),
        "open_tree_median_ms": float(np.median(trees)),
        "open_tree_worst_ms": float(max(trees)),
        "transcripts_opened": len(transcripts),
        "open_transcript_median_ms": float(np.median(transcripts)),
        "open_transcript_worst_ms": float(max(transcripts)),
        "search_worst_ms": float(max(searches)),
        "script_heap_mb": heap / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.write:
        write_report(args.write)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    with tempfile.TemporaryDirectory() as made:
        run = args.run or Path(made) / "run"
        if args.run is None:
            make_run(run, args.questions)
        begun = time.perf_counter()
        command = [sys.executable, __file__, "--write", str(run)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        seconds = time.perf_counter() - begun
        page = run / "report.html"
        asked = len((run / "questions.jsonl").read_text().splitlines())
        figures: dict[str, Any] = {
            "questions": asked,
            "outputs": asked * len(PARENTS) if args.run is None else None,
            "write_s": seconds,
            "write_peak_mb": peak,
            "page_mb": page.stat().st_size / 1e6,
        }
        with open_browser() as browser:
            browser.size(1400, 1000)
            browser.open(page)  # warms the disk's cache
            agent = browser.run("return navigator.userAgent.match(/Chrome.[0-9.]+/)[0]")
            figures["browser"] = agent
            figures |= use(browser, page, asked)
    rows = [
        [key, f"{value:,.1f}" if isinstance(value, float) else str(value)]
        for key, value in figures.items()
    ]
    print_table("report", ["", ""], rows)
    if args.json:
        write_json(args.json, environment() | {"report": figures})


if __name__ == "__main__":
    main()
