"""The view of trees in headless Chromium, against the forest: clicks, keys, filters, injection."""

import json
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malt_fast import report
from malt_fast._core.forest import Forest
from malt_fast.tasks.prompts import Prompts
from tests.results.browser import Browser, open_browser
from tests.small_run import load_forest, replace_questions, run, write_model, write_questions

NODES = "document.querySelectorAll('.node').length"
CHOSEN = "return document.querySelector('[aria-selected=true].node').dataset.node"
BAD = """<script>window.hit=1</script><img src=x onerror="window.hit=2"></script>&lt;b>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as one:
        one.size(1400, 1000)
        yield one


@pytest.fixture
def opened(browser: Browser, evaluated: Path) -> Iterator[Browser]:
    browser.open(evaluated / "report.html", "#trees")
    browser.wait(NODES)
    browser.fill("#trees .as", "raw")
    yield browser
    assert browser.complaints() == []


def listed(browser: Browser) -> int:
    return int(browser.text("#t-count").split()[0].replace(",", ""))


def leaves(forest: Forest, trees: int) -> Any:
    size = len(forest) // trees
    return forest.outcome.reshape(trees, size)[:, size - 12 :] == 1


# ---- looking ----


def test_from_a_question_to_its_outputs_side_by_side(opened: Browser, evaluated: Path) -> None:
    forest = load_forest(evaluated)
    size = len(forest) // 20
    assert opened.count(".node") == size - 1 == 3 + 6 + 12
    opened.click("[data-tree='3']")
    opened.wait("document.querySelector('#t-question').innerText.includes('train-3')")
    opened.click("[data-node='20']")  # the last leaf
    assert opened.count("#trees .card") == 3
    shown = opened.run(
        "return [...document.querySelectorAll('#trees .card .text')].map(e => e.textContent)"
    )
    assert len(shown) == 3 and all(text in ("1", "2", "") for text in shown)
    values = [opened.text(f"[data-node='{n}'] b") for n in (2, 8, 20)]
    outcome = forest.outcome.astype(float)
    kids = outcome[3 * size + 10 : 3 * size + 22].reshape(3, 2, 2)
    assert values == [f"{kids[2].mean():.2f}", f"{kids[2, 1].mean():.2f}", f"{kids[2, 1, 1]:.2f}"]
    assert opened.run("return location.hash").endswith("q=train-3&n=20")


def test_filters_count_what_the_forest_has(opened: Browser, evaluated: Path) -> None:
    right = leaves(load_forest(evaluated), 20)
    expected = {
        "all": int(right.all(1).sum()),
        "none": int((~right).all(1).sum()),
        "some": int((right.any(1) & ~right.all(1)).sum()),
        "": 20,
    }
    for choice, count in expected.items():
        opened.fill("#t-leaves", choice)
        assert listed(opened) == count, choice
    share = right.mean(1)
    opened.fill("#t-low", "0.5")
    assert listed(opened) == int((share >= 0.5).sum())
    opened.fill("#t-high", "0.6")
    assert listed(opened) == int(((share >= 0.5) & (share <= 0.6)).sum())
    opened.fill("#t-low", "0")
    opened.fill("#t-high", "1")
    opened.fill("#t-order", "down")
    first = opened.run("return Number(document.querySelector('#t-rows > div').dataset.tree)")
    assert share[first] == share.max()


def test_search(opened: Browser) -> None:
    opened.fill("#t-search", "(17)")
    assert listed(opened) == 1
    opened.fill("#t-search", "TRAIN-5")
    assert listed(opened) == 1
    opened.fill("#t-search", "no such question")
    assert listed(opened) == 0
    opened.fill("#t-search", "1")  # stands in most outputs
    before = listed(opened)
    opened.click("#t-deep")
    opened.wait("!document.querySelector('#t-count').innerText.includes('searching')")
    assert listed(opened) >= before


def test_pairs_lead_to_their_siblings(opened: Browser) -> None:
    opened.fill("#t-flag", "8")
    assert listed(opened) > 0
    opened.click("#t-rows > div")
    opened.wait("document.querySelector('.node em')")
    for node in range(21):
        opened.click(f"[data-node='{node}']")
        if opened.count(".pair"):
            break
    label = opened.text(".pair")
    opened.click(".pair")
    heads = opened.run(
        "return [...document.querySelectorAll('#trees .card h3')].map(e => e.textContent)"
    )
    assert [head.split(":")[0] for head in heads] == ["chosen", "rejected"]
    assert label.partition(" ")[0] in ("chosen", "rejected")
    role = {head.split(": ")[1].split()[0] for head in heads}
    assert len(role) == 1
    opened.press("Escape")
    assert opened.count(".back") == 0


def test_everything_by_keyboard(opened: Browser) -> None:
    opened.press("/")
    assert opened.run("return document.activeElement.id") == "t-search"
    opened.press("Escape")
    assert opened.run("return document.activeElement.id") == "t-list"
    opened.press("ArrowDown", "ArrowDown")
    opened.wait("document.querySelector('#t-question').innerText.includes('train-2')")
    opened.press("Enter")
    opened.wait("Number(document.activeElement.dataset.node) >= 9")  # a leaf
    opened.press("ArrowLeft", "ArrowLeft", "Home", "ArrowRight", "ArrowRight", "ArrowDown")
    opened.wait("document.activeElement.dataset.node === '10'")
    opened.press("ArrowLeft")
    opened.wait("document.activeElement.dataset.node === '3'")
    assert (
        opened.run("return document.querySelector('[aria-selected=true].node').dataset.node") == "3"
    )
    opened.press("?")
    assert opened.run("return document.querySelector('#keys').open")
    opened.press("Escape")
    assert not opened.run("return document.querySelector('#keys').open")


def test_an_address_leads_to_an_output(browser: Browser, evaluated: Path) -> None:
    browser.open(evaluated / "report.html", "#trees&f=0&q=train-7&n=12")
    browser.wait("document.querySelector('#t-question').innerText.includes('train-7')")
    assert (
        browser.run("return document.querySelector('[aria-selected=true].node').dataset.node")
        == "12"
    )
    browser.open(evaluated / "report.html", "#trees&q=train-999&n=x")
    browser.wait("document.querySelector('#t-question').innerText.includes('train-0')")
    assert browser.complaints() == []


# ---- other runs ----


def test_text_does_nothing(browser: Browser, evaluated: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Prompts, "decode", lambda *_: BAD)
    rows = [json.loads(line) for line in (evaluated / "questions.jsonl").read_text().splitlines()]
    for row in rows:
        row["gold"] = BAD
    copy = Path(shutil.copytree(evaluated, tmp_path / "run"))
    replace_questions(copy, rows)
    out = tmp_path / "bad.html"
    assert report.main(["--run", str(copy), "--out", str(out)]) == 0
    browser.open(out, "#trees")
    browser.wait(NODES)
    for way in ("rendered", "raw", "changes"):
        browser.fill("#trees .as", way)
        browser.click("[data-node='20']")
        shown = browser.run("return document.querySelector('.card .text').textContent")
        assert shown == (BAD if way == "raw" else unescape(BAD))  # as Markdown reads &lt;
    assert BAD in browser.text("#t-question")
    assert browser.run("return window.hit === undefined")
    assert browser.count("#trees img, #trees script") == 0


@pytest.mark.parametrize(
    ("chain", "branching"), [("generator,refiner", [2, 3]), ("a,b,c,d", [2, 1, 3, 2])]
)
def test_other_chains(browser: Browser, tmp_path: Path, chain: str, branching: list[int]) -> None:
    prompts = tmp_path / "prompts.yaml"
    roles = chain.split(",")
    wording = {
        role: {"user": "{question}" + "".join(f" {{{name}}}" for name in roles[:i])}
        for i, role in enumerate(roles)
    }
    prompts.write_text(json.dumps({"chat": False, "prompts": wording}))
    options = ["--chain", chain, "--tree.branching", ",".join(map(str, branching))]
    folder = tmp_path / "x"
    folder.mkdir()
    data, model = write_questions(folder / "q.jsonl"), write_model(folder / "model")
    options += ["--task.prompts", str(prompts), "--train.dpo_roles", "[]", "--task.limit", "3"]
    assert run(data, model, folder / "run", *options) == 0
    browser.open(folder / "run" / "report.html", "#trees")
    browser.wait(NODES)
    assert browser.count(".node") == int(np.cumprod(branching).sum())
    browser.click(f"[data-node='{int(np.cumprod(branching).sum()) - 1}']")
    assert browser.count("#trees .card") == len(roles)
    assert browser.complaints() == []
