"""The report of a large run: time to write it, and response times in a browser.

    python benchmarks/bench_report.py [--questions N] [--run DIR] [--json FILE]

Makes a run of N questions (10,000) with three outputs per role and parent (390,000 in all). Their
texts are words with the frequencies of this project's documentation: drafts of 75 words, critiques
of 60, refinements of 90 on average. Writes the report, opens it from the disk in headless Chromium,
and measures the first paint, the time from the click on a question to its drawn tree (50 questions,
each in another chunk), the time of a search, and the memory of the page. --run uses another run.
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
from pathlib import Path
from typing import Any

import numpy as np
from common import environment, print_table, write_json
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from malt_fast.config.load import dump, make_config  # noqa: E402
from malt_fast.forest.build import build_forest  # noqa: E402
from malt_fast.forest.file import save_forest  # noqa: E402
from malt_fast.results.write_report import write_report  # noqa: E402
from malt_fast.sampling.prepare import load_prompts  # noqa: E402
from malt_fast.store.segments import Sample  # noqa: E402
from malt_fast.store.store import open_store  # noqa: E402
from malt_fast.tasks.load import load_task  # noqa: E402
from malt_fast.utils.files import content_checksum  # noqa: E402
from tests.results.browser import Browser, open_browser  # noqa: E402

WORDS = {1: 75, 2: 60, 3: 90}  # per output, by level
PARENTS = [-1] * 3 + [i // 3 for i in range(9)] + [3 + i // 3 for i in range(27)]
LEVEL = [1] * 3 + [2] * 9 + [3] * 27
CLICKS = 50
OPENED = """
const done = arguments[arguments.length - 1], tree = arguments[0], begun = performance.now();
const question = document.getElementById("t-question");
new MutationObserver((_, watcher) => {
  watcher.disconnect();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
}).observe(question, { childList: true });
document.querySelector(`[data-tree="${tree}"]`).click();
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
    """A run directory as training leaves it, without adapters and evaluation."""
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
    fill(folder, questions, made.tokenizer.get_vocab(), words, share, rng)


def fill(
    folder: Path, questions: int, vocab: dict[str, int], words: list[str], share: Any, rng: Any
) -> None:
    """The samples, and the forest over them: easy questions are answered correctly more often."""
    (folder / "round-0").mkdir()
    ids = np.array([vocab[word] for word in words], np.int32)
    ending = [vocab["Final"], vocab["Answer:"]]
    store = open_store(folder / "samples")
    outcomes = []
    for question in range(questions):
        easy, gold = rng.random(), question % 100
        samples = []
        sizes = rng.poisson([WORDS[level] for level in LEVEL])
        texts = np.split(rng.choice(ids, sizes.sum(), p=share), sizes.cumsum()[:-1])
        for level, text in zip(LEVEL, texts, strict=True):
            right = bool(rng.random() < easy)
            said = gold if right else int(rng.integers(100))
            stated = [] if level == 2 else [*ending, vocab[str(said)]]
            tokens = np.concatenate([text, stated, [vocab["</s>"]]]).astype(np.int32)
            logprobs = np.zeros(len(tokens), np.float32)
            samples.append(Sample(rng.bytes(16), f"q-{question}", (0,), 0, tokens, logprobs))
            outcomes.append(int(said == gold) if level == 3 else 255)
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


def use(browser: Browser, page: Path, questions: int) -> dict[str, Any]:
    """Waiting times of a reader, in ms."""
    begun = time.perf_counter()
    browser.open(page)
    loaded = 1000 * (time.perf_counter() - begun)
    browser.wait("document.querySelectorAll('.node').length")
    paint = browser.run(
        "return performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
    )
    ready = 1000 * (time.perf_counter() - begun)
    clicks = []
    for tree in random.Random(0).sample(range(questions), min(CLICKS, questions)):
        browser.run(f"document.getElementById('t-list').scrollTop = {46 * tree}")
        browser.wait(f"document.querySelector('[data-tree=\"{tree}\"]')")
        clicks.append(browser.ask("post", "execute/async", script=OPENED, args=[tree]))
    searches = [
        browser.run(SEARCH, words) for words in ("q-7", "the", "a long search for nothing", "")
    ]
    heap = browser.run("return performance.memory.usedJSHeapSize")
    return {
        "first_contentful_paint_ms": paint[0],
        "loaded_ms": loaded,
        "first_tree_drawn_ms": ready,
        "trees_opened": len(clicks),
        "open_tree_median_ms": float(np.median(clicks)),
        "open_tree_worst_ms": float(max(clicks)),
        "search_worst_ms": float(max(searches)),
        "script_heap_mb": heap / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)  # runs in its own process
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
