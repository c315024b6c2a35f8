"""The report's page in headless Chromium: views, transcripts, texts as elements, charts, axe."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from malt_fast import report
from malt_fast.evaluation.outputs import Outputs, read_outputs
from malt_fast.results.transcripts import is_right
from malt_fast.utils.files import read_checked
from tests.results.browser import Browser, open_browser

AXE = Path("build/vendor/node_modules/axe-core/axe.min.js")  # `make vendor`
QUESTION = "document.querySelector('#h-question p')"
SHOWN = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
MARKED = r"""Let **bold** be $x^2$ and \(y_1\):

3. first
4. `code` _em_ 2*3*4 (a)*(b)*c

| a | b |
|---|---|
| 1 | 2 |

$$\frac{1}{2}$$ so \boxed{42}; it costs $5 and $6 <b>"""
HOSTILE = (
    "<img src=x onerror=hit()><script>hit()</script><svg onload=hit()>",
    "[a](javascript:hit()) ![b](https://example.invalid/x.png) <https://example.invalid>",
    r"$\href{javascript:hit()}{x}$ $\includegraphics{https://example.invalid/x.png}$",
    r"$\html{<img src=x onerror=hit()>}$ $\class{a}{b}$",
    r"$\style{background:url(x)}{b}$ $\id{t-list}{b}$ $\data{x=1}{b}$ $\ref{a}$ \begin{x}",
    r"$\def\x{\x\x}\x$ $\rule{9999999em}{9999999em}$",
    "$" * 3000 + "\\[" * 3000 + "[" * 3000 + "*a" * 3000,
    "\x00\x1b[31m \u202e \ud7ff &lt;b&gt; &#60;b&#62; <!-- x --> ]]> </style></script>",
)

VIOLATIONS = """
const kinds = arguments[0];   // of rules; null: all
return axe.run({ resultTypes: ["violations"], ...(kinds && { runOnly: kinds }) })
  .then((found) => found.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]));
"""
SLOTS = """
return [...document.querySelectorAll('[data-side="1"] [data-slot]')].map((e) => +e.dataset.slot);
"""
ACTIVE = """
return [...document.querySelectorAll(".text *")].flatMap((e) => [...e.attributes])
  .filter((a) => /^(on|href|src|xlink|id$)/.test(a.name) || /url\\(/.test(a.value)).length;
"""
ELEMENTS = {
    *("p", "ul", "ol", "li", "blockquote", "strong", "em", "s", "pre", "code", "br", "hr", "span"),
    *("table", "thead", "tbody", "tr", "th", "td", "ins", "del", "math", "mrow", "mi", "mo", "mn"),
    *("mtext", "mspace", "msup", "msub", "msubsup", "mfrac", "msqrt", "mroot", "mtable", "mtr"),
    *("mtd", "mover", "munder", "munderover", "mstyle", "mpadded", "mphantom", "menclose"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as one:
        one.size(1300, 1000)
        yield one


@pytest.fixture(scope="module")
def outputs(evaluated: Path) -> list[Outputs]:
    checksum = read_checked(evaluated / "evaluation.json")["outputs"]
    return read_outputs(evaluated / "evaluation.jsonl", checksum)


@pytest.fixture
def told(browser: Browser, evaluated: Path) -> Iterator[Browser]:
    """The transcripts."""
    browser.open(evaluated / "report.html", "#transcripts")
    browser.wait("document.querySelectorAll('#h-detail .card').length")
    yield browser
    assert browser.complaints() == []


def listed(browser: Browser) -> int:
    return int(browser.text("#h-count").split()[0])


# ---- views ----


def test_one_view_at_a_time(browser: Browser, evaluated: Path) -> None:
    seen = (
        "return [...document.querySelectorAll('.view')].filter(e => e.offsetHeight).map(e => e.id)"
    )
    browser.open(evaluated / "report.html")
    assert browser.run(seen) == ["first-view"]
    browser.click("nav a[href='#trees']")
    browser.wait("document.querySelectorAll('.node').length")
    assert browser.run(seen) == ["trees"]
    browser.click("nav a[href='#settings']")
    browser.wait("document.querySelector('#first-view').offsetHeight")
    assert browser.run(seen) == ["first-view"]
    assert browser.text("nav a[aria-current]") == "Settings"
    browser.click(".flip-01 a")
    browser.wait("document.querySelector('#transcripts').offsetHeight")
    assert browser.run("return document.querySelector('#h-outcome').value") == "01"
    assert browser.complaints() == []


# ---- transcripts ----


def test_filters_by_what_two_systems_answered(told: Browser, outputs: list[Outputs]) -> None:
    systems = list(outputs[0].voted)
    for before, after in (("MA", "MALT"), ("SA", "MALT+MV@3")):
        told.fill("#h-before", str(systems.index(before)))
        told.fill("#h-after", str(systems.index(after)))
        pairs = [(is_right(one, before), is_right(one, after)) for one in outputs]
        for outcome in ("01", "10", "00", "11"):
            told.fill("#h-outcome", outcome)
            assert listed(told) == pairs.count((outcome[0] == "1", outcome[1] == "1"))
    told.fill("#h-outcome", "every")
    assert listed(told) == sum(all(is_right(q, name) for name in systems) for q in outputs)
    told.fill("#h-outcome", "none")
    assert listed(told) == sum(not any(is_right(q, name) for name in systems) for q in outputs)
    told.fill("#h-outcome", "")
    told.fill("#h-search", "(7)")
    assert listed(told) == 1


def test_a_vote_and_the_texts_of_its_passes(
    told: Browser, outputs: list[Outputs], evaluated: Path
) -> None:
    result = read_checked(evaluated / "evaluation.json")
    passes = next(one["passes"] for one in result["systems"] if one["name"] == "MALT+MV@3")
    first = passes[0][-1]  # loses the vote that is looked at
    place = next(q for q, one in enumerate(outputs) if one.voted["MALT+MV@3"] not in (-1, first))
    told.open(evaluated / "report.html", f"#transcripts&a=MA&b=MALT%2BMV%403&q={outputs[place].id}")
    told.wait(f"({QUESTION} || {{}}).textContent === arguments[0]", outputs[place].text)
    assert told.count("#h-detail [data-side='0'] .votes") == 0
    assert told.count("[data-side='1'] .votes button") == 3
    same, won = outputs[place].answers, outputs[place].voted["MALT+MV@3"]
    agree = sum(same[slots[-1]] == same[won] for slots in passes)
    assert f"{agree} of 3 votes" in told.text("[data-side='1'] .votes b")
    assert told.run(SLOTS)[-1] == won  # the pass that decided
    told.click("[data-side='1'] [data-pass='2']")
    assert told.run(SLOTS) == passes[2]
    told.click("[data-system='MALT']")
    assert told.count("[data-side='1'] .votes") == 0
    assert "b=MALT&" in told.run("return location.hash")


def test_transcripts_by_keyboard(told: Browser) -> None:
    told.press("/")
    assert told.run("return document.activeElement.id") == "h-search"
    told.press("Escape")
    assert told.run("return document.activeElement.id") == "h-list"
    told.press("Home", "ArrowDown", "ArrowDown")
    told.wait(f"{QUESTION}.textContent.includes('(2)')")
    told.press("Enter")
    assert told.run("return document.activeElement.dataset.system") == "SA"
    told.press("Enter")
    told.wait("document.querySelector('#h-after').value === '0'")
    assert told.run("return document.activeElement.dataset.system") == "SA"


def test_prompts_hold_what_the_role_read(told: Browser, evaluated: Path) -> None:
    told.click("[data-side='1'] .card:last-child summary")
    told.wait("document.querySelector('[data-side=\"1\"] .card:last-child .prompt pre')")
    shown = told.run(SHOWN, "[data-side='1'] .card:last-child .prompt pre")[0]
    put = told.run(SHOWN, "[data-side='1'] .card:last-child .prompt mark")
    assert put[0] == told.run(f"return {QUESTION}.textContent")
    texts = told.run(SHOWN, "[data-side='1'] .card .text")
    assert [one.strip() for one in put[1:]] == [one.strip() for one in texts[:2]]
    written = (evaluated / "prompts.txt").read_text().split("===== ")[3]
    for part in re.split("⟪[^⟫]*⟫", written.partition("=====\n")[2]):
        assert part.strip() in shown


# ---- texts ----


def as_elements(browser: Browser, way: str, text: str, before: str | None = None) -> Any:
    """Tags and text of an output."""
    script = """
    Malt.as = arguments[0];
    const shown = Malt.text(arguments[1], arguments[2]);
    document.body.append(shown);
    const tags = [...shown.querySelectorAll("*")].map((e) => e.localName);
    const all = (tag) => [...shown.querySelectorAll(tag)].map((e) => e.textContent);
    return [tags, shown.textContent, all("ins"), all("del")];
    """
    return browser.run(script, way, text, before)


def test_markdown_and_maths(told: Browser) -> None:
    tags, text, _, _ = as_elements(told, "rendered", MARKED)
    assert {"strong", "em", "code", "ol", "li", "table", "td", "math", "msup", "mfrac"} <= set(tags)
    assert tags.count("math") == 4 and "b" not in tags  # and none of the prices
    assert "costs $5 and $6 <b>" in text and "2*3*4 (a)*(b)*c" in text
    assert told.run("return [...document.querySelectorAll('ol')].pop().start") == 3
    tags, text, _, _ = as_elements(told, "raw", MARKED)
    assert tags == [] and text == MARKED
    told.fill("#transcripts .as", "raw")
    assert told.run("return document.querySelector('#trees .as').value") == "raw"


def test_changes_are_counted_in_words(told: Browser) -> None:
    draft, end = "The sum is 12 + 3 = 14, so 14.", "The sum is 12 + 3 = 15, so the answer is 15."
    _, text, added, dropped = as_elements(told, "changes", end, draft)
    assert "".join(added).replace(" ", "") == "15theansweris15" and dropped == ["14", "14"]
    for gone in dropped:
        text = text.replace(gone, "", 1)
    assert text == end
    assert as_elements(told, "changes", draft, draft)[2:] == [[], []]
    long = " ".join(map(str, range(4000)))
    assert as_elements(told, "changes", long, long[::-1])[1].endswith(long)


def test_hostile_texts_stay_text(told: Browser) -> None:
    told.run("window.hits = 0; window.hit = () => { window.hits += 1; }")
    for text in HOSTILE:
        for way in ("rendered", "raw", "changes"):
            tags, shown, _, _ = as_elements(told, way, text, "")
            assert set(tags) <= ELEMENTS, text
            assert way == "rendered" or shown.endswith(text)
    assert told.run(ACTIVE) == 0 and told.run("return window.hits") == 0


def test_the_policy_forbids_markup_from_text(browser: Browser, evaluated: Path) -> None:
    browser.open(evaluated / "report.html")
    made = """
    const refused = [];
    try { document.body.innerHTML = "<img src=x>"; } catch (error) { refused.push(error.name); }
    const script = document.createElement("script");
    try { script.textContent = "window.hit = 1"; document.body.append(script); }
    catch (error) { refused.push(error.name); }
    document.body.setAttribute("onclick", "window.hit = 2");
    document.body.click();
    return [refused, window.hit === undefined];
    """
    refused, untouched = browser.run(
        f"try {{ {made} }} catch (error) {{ return [[error.name], true]; }}"
    )
    assert refused and set(refused) == {"TypeError"} and untouched
    browser.complaints()


# ---- charts ----


def test_charts_show_values_and_enlarge(browser: Browser, evaluated: Path) -> None:
    browser.open(evaluated / "report.html", "#training")
    browser.wait("document.querySelector('#training .plot .u-over')")
    value = "[...document.querySelectorAll('#training .u-legend .u-value')].map(e => e.textContent)"
    browser.run("document.querySelector('#training .plot .u-over').focus()")
    browser.press("ArrowRight")
    first = browser.run(f"return {value}")
    browser.press("ArrowRight")
    browser.wait(f"{value}.join() !== arguments[0]", ",".join(first))
    metrics = [json.loads(line) for line in (evaluated / "metrics.jsonl").read_text().splitlines()]
    loss = next(line["loss"] for line in metrics if line["stage"].startswith("sft/"))
    assert first[0] == "1" and any(abs(float(one) - loss) < 1e-3 for one in first[1:4])
    browser.press("+")
    browser.click("#theme")
    assert browser.wait("document.querySelector('#training .plot .u-over')")
    browser.click("#theme")
    names = browser.run(SHOWN, "#training figure:first-of-type .u-label")
    assert [one for one in names if one][:4] == [
        *("optimiser step", "generator", "verifier", "refiner"),
    ]
    assert browser.complaints() == []


# ---- for everybody ----


def emulate(browser: Browser, width: int, dark: bool) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    for command, values in (
        ("Emulation.setEmulatedMedia", {"features": [scheme]}),
        ("Emulation.setDeviceMetricsOverride", size),
    ):
        browser.ask("post", "goog/cdp/execute", cmd=command, params=values)


def test_every_view_in_light_and_dark_and_narrow(browser: Browser, evaluated: Path) -> None:
    script = AXE.read_text() if AXE.is_file() else ""
    colour = "return getComputedStyle(document.body).backgroundColor"
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    browser.open(evaluated / "report.html", "#training")
    browser.wait("document.querySelectorAll('.plot .u-over').length")
    browser.run(script)
    for width, dark in ((1300, False), (1300, True), (420, False)):
        emulate(browser, width, dark)
        before = browser.run(colour)
        browser.click("#theme")
        assert browser.run(colour) != before
        browser.click("#theme")
        assert browser.run(colour) == before
        for view in ("results", "transcripts&b=MALT%2BMV%403", "trees"):
            browser.run("location.hash = arguments[0]", view)
            if view != "results":
                browser.wait(f"document.querySelectorAll('#{view.partition('&')[0]} .card').length")
            assert browser.run(wide) <= 0, (view, width)
            if script:
                found = browser.run(VIOLATIONS, ["color-contrast"] if dark else None)
                assert found == [], (view, width, dark)
    emulate(browser, 1300, False)
    if not script:
        pytest.skip("needs axe-core: `make vendor`")


def test_runs_side_by_side(browser: Browser, evaluated: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(evaluated, tmp_path / "other"))
    out = tmp_path / "both.html"
    assert report.main(["--run", str(evaluated), "--run", str(other), "--out", str(out)]) == 0
    browser.open(out, "#training")
    browser.wait("document.querySelector('.plot .u-over')")
    names = browser.run(SHOWN, "figure:first-of-type .u-label")
    assert [one for one in names if one][1:3] == ["run", "other"]
    assert browser.complaints() == []
