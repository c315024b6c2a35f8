"""The page of a run: its figures, missing parts, untrusted text, determinism."""

import base64
import fcntl
import gzip
import json
import re
import shutil
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malt_fast import report
from malt_fast.config.load import load_config_file
from malt_fast.config.schema import Config
from malt_fast.evaluation.outputs import read_outputs
from malt_fast.evaluation.result import SystemResult
from malt_fast.evaluation.systems import paper_systems
from malt_fast.forest.file import forest_of, read_forest, save_forest
from malt_fast.planning.plan_facts import facts_of
from malt_fast.results.charts import Bars, Chart
from malt_fast.results.compare import Compared, difference, short_names
from malt_fast.results.opened_run import open_forests
from malt_fast.results.quality import measure_quality
from malt_fast.results.run_contents import read_run
from malt_fast.results.systems import spelled_out
from malt_fast.results.templates import HTML, Grid
from malt_fast.results.training import even_points, quality_bars
from malt_fast.results.transcripts import flip_counts, is_right, read_answers
from malt_fast.store.store import open_store
from malt_fast.tasks.load import load_task
from malt_fast.tasks.prompts import Prompts
from malt_fast.utils.files import read_checked, write_checked
from tests.small_run import load_forest, replace_questions

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><b>", "</style>",
    "]]>", "<!-- x", "\x1b[31m\x00", "\ud800", "${1} &amp; `",
)  # fmt: skip
VOID = {"meta", "img", "br", "link", "input", "use", "path"}


class Reader(HTMLParser):
    """Elements, their attributes and their texts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while tag in self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.stack[-1:] not in (["script"], ["style"]):
            self.texts.append(data)


def parsed(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def data_of(page: str, name: str) -> Any:
    found = re.search(rf'<script type="[^"]*" id="{name}">([^<]*)</script>', page)
    assert found, name
    if name.endswith("meta"):
        return json.loads(found[1])
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


@pytest.fixture
def copy(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


def test_a_run_ends_with_a_page_that_needs_no_network(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    reader = parsed(page)
    links = [
        v for _, a in reader.elements for k, v in a.items() if k in ("src", "href", "xlink:href")
    ]
    assert links and all(link.startswith("#") for link in links)
    targets = {a["id"] for _, a in reader.elements if a.get("id")}
    assert {link[1:].partition("&")[0] for link in links} <= targets
    plain = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # which name no address
    assert not re.search(r"url\(|@import|https?://", plain)
    titles = ["Results", "Transcripts", "Trees", "Training", "Data", "Time", "Settings"]
    assert [x for x in reader.texts if x in titles][: len(titles)] == titles


def test_the_policy_allows_the_scripts_of_the_page_and_no_others(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    policy = next(
        a["content"] for t, a in parsed(page).elements if t == "meta" and "http-equiv" in a
    )
    assert policy.startswith("default-src 'none'") and "require-trusted-types-for" in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = [b64encode(sha256(one.encode()).digest()).decode() for one in scripts]
    allowed = re.search(r"script-src ([^;]*);", policy)
    assert allowed and allowed[1].split() == [f"'sha256-{one}'" for one in hashes]
    assert len(scripts) > 5 and not any("<!--" in one for one in scripts)


def test_figures_are_those_of_the_evaluation(evaluated: Path) -> None:
    result = read_checked(evaluated / "evaluation.json")
    shown = " ".join(parsed((evaluated / "report.html").read_text()).texts)
    for row in result["systems"]:
        low, high = row["ci95"]
        line = f"{100 * row['accuracy']:.1f} {100 * low:.1f}..{100 * high:.1f}"
        assert row["name"] in shown and line in shown
    malt = result["paired"][0]["a"]
    right = next(row["accuracy"] for row in result["systems"] if row["name"] == malt)
    assert f"{malt} answers {100 * right:.1f} % of 20 held-out questions" in shown


def test_data_quality_equals_plain_counting(evaluated: Path) -> None:
    forest = load_forest(evaluated)
    shown = parsed((evaluated / "report.html").read_text()).texts
    at = shown.index("questions without signal %") + 5  # the rest of the head
    metrics = [json.loads(line) for line in (evaluated / "metrics.jsonl").read_text().splitlines()]
    yields = next(line["roles"] for line in metrics if line["stage"] == "yield")
    for level, role in enumerate(("generator", "verifier", "refiner"), 1):
        row = shown[shown.index(role, at) :][:12]
        nodes = [n for n in range(len(forest)) if forest.level[n] == level]
        done = [n for n in nodes if forest.state[n] == 1]
        cut = sum(forest.finish[n] == 1 for n in done) / len(done)
        assert row[1] == f"{len(done):,}" and row[3] == f"{100 * cut:.1f}"
        mine = yields[level - 1]
        assert row[4] == f"{100 * mine['identical']:.1f}" and row[6] == f"{100 * mine['mixed']:.1f}"
        assert row[8] == f"{mine['examples']:,}"
        if role != "generator":  # which gets no DPO
            assert row[9] == f"{mine['pairs']:,}"


def test_a_role_of_kto_learns_from_labels_and_not_from_pairs(evaluated: Path) -> None:
    config = load_config_file(evaluated / "config.yaml")
    settings = config.model_dump()
    settings["train"]["dpo"]["loss_type"] = "kto"
    kto = Config.model_validate(settings)
    forests, _ = open_forests(evaluated, config, load_task(config, questions=False))
    (source,) = (one for one in forests if one.role == "refiner")
    pairs, labels = (measure_quality(replace(source, config=one)) for one in (config, kto))
    assert pairs.pairs > 0 == pairs.counts.labelled
    assert labels.pairs == 0 < labels.counts.labelled and labels.longer is None
    bars = quality_bars([labels])[0]
    assert bars.parts == {
        "examples": [labels.counts.examples], "labelled outputs": [labels.counts.labelled]
    }  # fmt: skip


def test_trees_hold_what_the_forest_holds(evaluated: Path) -> None:
    page, forest = (evaluated / "report.html").read_text(), load_forest(evaluated)
    (meta,), index = data_of(page, "trees-meta"), data_of(page, "trees-0-index")
    trees = data_of(page, "trees-0-0")
    size = len(forest) // 20
    assert meta["trees"] == len(trees) == len(index["id"]) == 20
    assert [p + 1 for p in meta["parents"]] == forest.parent[1:size].tolist()
    texts = {1: [ord(c) for c in "1"]}
    for t, tree in enumerate(trees):
        nodes = range(t * size + 1, (t + 1) * size)
        assert tree["tokens"] == forest.token_len[nodes.start : nodes.stop].tolist()
        assert tree["outcome"] == [None if o > 1 else o for o in forest.outcome[nodes].tolist()]
        leaves = [o for o in forest.outcome[nodes].tolist() if o <= 1]
        assert index["right"][t] == sum(leaves) and index["graded"][t] == len(leaves)
        means = [np.mean(leaves[i : i + 4]) for i in range(0, 12, 4)]  # of drafts, 2 x 2 leaves
        assert tree["value"][:3] == pytest.approx(means, abs=1e-4)
        assert index["value"][t] == pytest.approx(np.mean(means), abs=1e-4)
        for chosen, rejected in tree["pairs"]:
            assert meta["parents"][chosen] == meta["parents"][rejected]
            assert (tree["label"][chosen], tree["label"][rejected]) == (1, 0)
            assert index["flags"][t] & 8
        assert all(tree["label"][n] == 1 for n in tree["examples"])
        drafts = [tree["answer"][n] == index["gold"][t] for n in range(3)]
        ends = [
            [tree["outcome"][n] for n in range(len(tree["text"])) if above(meta, n) == d]
            for d in range(3)
        ]
        mended = any(1 in e and not d for d, e in zip(drafts, ends, strict=True))
        assert bool(index["flags"][t] & 2) == mended
    assert texts


def test_transcripts_hold_what_the_evaluation_holds(evaluated: Path) -> None:
    page, forest = (
        (evaluated / "report.html").read_text(),
        load_forest(evaluated, "evaluation.arrows"),
    )
    meta, index = data_of(page, "transcripts-meta"), data_of(page, "transcripts-index")
    questions, result = data_of(page, "transcripts-0"), read_checked(evaluated / "evaluation.json")
    prompts = json.loads((evaluated / "prompts.json").read_text())
    size = len(forest) // 20
    assert [one["name"] for one in meta["systems"]] == [one["name"] for one in result["systems"]]
    assert len(index["id"]) == len(questions) == meta["questions"] == 20
    for system, signs, row in zip(meta["systems"], index["right"], result["systems"], strict=True):
        assert signs.count("1") / 20 == pytest.approx(row["accuracy"])
        assert len(system["passes"]) * len(system["turns"]) == row["calls_per_question"]
        assert system["about"] and system["about"] != system["name"]
    for q, one in enumerate(questions):
        ids = [forest.tokens_of(q * size + 1 + slot).tolist() for slot in range(size - 1)]
        assert [len(tokens) for tokens in ids] == one["tokens"]
        said = [len(tokens) - (tokens[-1:] == prompts["end_ids"][:1]) for tokens in ids]
        assert [bool(text) for text in one["text"]] == [n > 0 for n in said]
        for s, system in enumerate(meta["systems"]):
            ends = [slots[-1] for slots in system["passes"]]
            votes = [one["same"][slot] for slot in ends]
            counts = {n: votes.count(n) for n in votes if n >= 0}
            won = one["voted"][s]
            sign = index["right"][s][q]
            if not counts:
                assert won == -1 and sign == "-"
                continue
            assert won in ends and counts[one["same"][won]] == max(counts.values())
            assert sign == str(one["right"][won])
            right = [one["answer"][slot] == index["gold"][q] for slot in ends]
            assert right == [bool(one["right"][slot]) for slot in ends]


def test_only_so_many_questions_are_shown(copy: Path, monkeypatch) -> None:
    monkeypatch.setattr("malt_fast.results.trees.MOST", 7)
    monkeypatch.setattr("malt_fast.results.transcripts.MOST", 6)
    assert report.main(["--run", str(copy)]) == 0
    page = (copy / "report.html").read_text()
    for viewer, shown in (("trees", 7), ("transcripts", 6)):
        index = data_of(page, "trees-0-index" if viewer == "trees" else "transcripts-index")
        assert len(index["id"]) == shown
        assert f"only the first {shown} of 20" in page
    assert len(data_of(page, "trees-0-0")) == 7 and len(data_of(page, "transcripts-0")) == 6


def test_flips_are_counted_over_the_same_questions(evaluated: Path) -> None:
    result, page = (
        read_checked(evaluated / "evaluation.json"),
        (evaluated / "report.html").read_text(),
    )
    outputs = read_outputs(evaluated / "evaluation.jsonl", result["outputs"])
    counts = flip_counts(outputs, "MA", "MALT")
    right = [[is_right(one, name) for name in ("MA", "MALT")] for one in outputs]
    assert counts["01"] == right.count([False, True]) and counts["10"] == right.count([True, False])
    assert sum(counts.values()) == 20
    for outcome, count in counts.items():
        assert f'<a href="#transcripts&amp;o={outcome}">{count}</a>' in page


def test_every_system_is_spelled_out() -> None:
    chain = ["generator", "verifier", "refiner"]
    systems = paper_systems(chain, 3, ["direct", "debater"])
    said = {}
    for one in systems:
        turns = [step.prompt for step in one.steps]
        result = SystemResult(
            name=one.name, accuracy=0, ci95=(0, 0), n=1, calls_per_question=1,
            tokens_per_question=1, turns=turns,
        )  # fmt: skip
        said[one.name] = spelled_out(result, chain)[1]
    assert all(said.values()) and len(set(said.values())) == len(systems)
    assert said["SA"] == "one answer of the untrained generator"
    assert said["MALT+MV@3"] == "majority of 3 passes of the fully trained chain"
    assert said["MALT+MV@3 -verifier"] == "majority of 3 passes, verifier untrained"
    assert (
        said["MALT+MV@3 G+R"] == "majority of 3 passes of the trained generator and refiner alone"
    )
    assert spelled_out(result.model_copy(update={"name": "Other 7"}), chain) == ("", "")


def test_the_last_point_weighs_like_the_others() -> None:
    def line(step: int, tokens: int, loss: float) -> dict[str, Any]:
        return {"step": step, "num_tokens": tokens, "loss": loss}

    short = [line(1, 100, 4.0), line(11, 1100, 2.0), line(12, 1200, 9.0)]
    (_, _), (_, before), (step, last) = even_points(short, "loss")
    assert (step, before) == (12, 2.0)
    assert last == pytest.approx((1000 * 2.0 + 100 * 9.0) / 1100)  # over the last 11 steps
    even = [line(1, 100, 4.0), line(11, 1100, 2.0), line(21, 2100, 9.0)]
    assert even_points(even, "loss")[-1] == (21, 9.0)
    without = [{"step": step, "loss": 1.0} for step in (1, 11, 12)]
    assert even_points(without, "loss") == [(1, 1.0), (11, 1.0), (12, 1.0)]


def above(meta: dict[str, Any], node: int) -> int:
    while meta["parents"][node] >= 0:
        node = meta["parents"][node]
    return node


def test_the_same_run_gives_the_same_bytes(copy: Path) -> None:
    before = (copy / "report.html").read_bytes()
    assert report.main(["--run", str(copy)]) == 0
    assert report.main(["--run", str(copy), "--out", str(copy / "again.html")]) == 0
    assert (copy / "again.html").read_bytes() == (copy / "report.html").read_bytes()
    assert len(before) == len((copy / "report.html").read_bytes())


# ---- what is missing ----


@pytest.mark.parametrize("how", ["remove", "empty", "half", "rubbish"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("evaluation.json", "results: "),
        ("evaluation.jsonl", "transcripts: evaluation.jsonl"),
        ("evaluation.arrows", "transcripts: evaluation.arrows"),
        ("metrics.jsonl", "metrics.jsonl"),
        ("environment.json", "environment"),
        ("questions.jsonl", "questions"),
        ("prompts.json", "prompts"),
        ("round-0/forest.arrows", "forest.arrows"),
        ("samples/samples-00000.arrows", "forest.arrows"),
        ("adapters/config.yaml", ""),
    ],
)
def test_what_is_missing_or_damaged_is_named(copy: Path, capsys, name, says, how) -> None:
    file = copy / name
    data = file.read_bytes()
    if how == "remove":
        file.unlink()
    else:
        file.write_bytes(
            {"empty": b"", "half": data[: len(data) // 2], "rubbish": b"\xff\0{["}[how]
        )
    if how == "half" and name in ("adapters/config.yaml", "samples/samples-00000.arrows"):
        return  # a shorter config is one; of the samples, those of the evaluation come last
    assert report.main(["--run", str(copy)]) == 0, capsys.readouterr()
    shown = " ".join(parsed((copy / "report.html").read_text()).texts)
    assert says in shown and ("Missing from this page" in shown or not says)


def test_a_run_that_has_only_begun(copy: Path) -> None:
    for name in ("round-0", "adapters", "samples", "tables"):
        shutil.rmtree(copy / name)
    for name in ("evaluation.json", "evaluation.arrows", "questions.jsonl", "environment.json"):
        (copy / name).unlink()
    (copy / "metrics.jsonl").write_text("")
    assert report.main(["--run", str(copy)]) == 0
    shown = parsed((copy / "report.html").read_text()).texts
    assert "Missing from this page" in shown and "Settings" in shown
    assert "Trees" not in shown and "Transcripts" not in shown


def test_a_run_that_is_still_written_to(copy: Path) -> None:
    with (copy / "lock").open("r+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.write("process 1 on a machine since today")
        lock.flush()
        assert report.main(["--run", str(copy)]) == 0
    assert "process 1 on a machine since today" in (copy / "report.html").read_text()


def test_stages_of_every_forest_and_curves_of_every_round(copy: Path) -> None:
    lines: list[dict[str, object]] = []
    for index in range(2):
        for name in ("forest-generator", "forest-verifier"):
            tokens = {"tokens": 5000, "reused_tokens": 3000}
            line = {
                "stage": f"sample round {index}",
                "round": index,
                "forest": name,
                "seconds": 4.0,
            }
            lines.append(line | tokens)
        for step in (1, 2):
            lines.append({"stage": "sft/verifier", "round": index, "step": step, "loss": 1.0})
        lines.append({"stage": "sft verifier", "round": index, "seconds": 2.0})
    again = {"stage": "sft/verifier", "round": 1, "step": 2, "loss": 0.5}
    (copy / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*lines, again]))
    found, _ = read_run(copy)
    assert [len(lines) for lines in found.curves().values()] == [2, 2]
    assert found.curves()["sft/verifier", 1][1]["loss"] == 0.5
    assert report.main(["--run", str(copy)]) == 0
    texts = parsed((copy / "report.html").read_text()).texts
    for name in ("sample round 0, forest-generator", "sample round 1, forest-verifier"):
        assert texts[texts.index(name) :][:2] == [name, "4.0"]
        assert "500" in texts[texts.index(name) :][2:5]  # tokens a second, without known ones
    assert {"sft verifier", "sft verifier, round 1", "verifier, round 0"} <= set(texts)


@pytest.mark.parametrize(
    "text", ['{"rows": 5}', '{"rows": [{"stage": "x", "plan": NaN}, 3]}', '{"rows": [{}]}', "[]"]
)
def test_a_damaged_plan_ends_no_report(copy: Path, text: str) -> None:
    (copy / "plan.json").write_text(text)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "evaluate", "seconds": 1.0}\n{"stage": "yield", "roles": 3}\n')
    assert report.main(["--run", str(copy)]) == 0
    assert facts_of([{"stage": "evaluate", "seconds": 1.0}, {"stage": "yield"}]) == {}
    assert facts_of([{"stage": "yield", "forest": "forest", "roles": []}]) == {}


def test_mistakes_are_one_sentence(tmp_path: Path, capsys) -> None:
    for words, says in (
        (["--run", str(tmp_path)], "holds no run"),
        ([], "--run is missing"),
        (["--run", str(tmp_path), "--lout", "x"], "lout"),
    ):
        assert report.main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_a_report_that_cannot_be_written_costs_no_run(copy: Path, monkeypatch, capsys) -> None:
    from malt_fast.config.load import make_config
    from malt_fast.results.write_report import write_final_report
    from malt_fast.runs.run import Run

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("malt_fast.results.write_report.write_report", full)
    write_final_report(Run(copy, make_config({})))
    assert "the report could not be written (No space left" in " ".join(
        capsys.readouterr().out.split()
    )


# ---- several runs ----


def test_runs_side_by_side(evaluated: Path, copy: Path, capsys) -> None:
    words = ["--run", str(evaluated), "--run", str(copy), "--out", str(copy / "both.html")]
    for file in (copy / "config.yaml", copy / "adapters" / "config.yaml"):
        file.write_text(file.read_text().replace("threshold: 0.5", "threshold: 0.25"))
    assert report.main(words) == 0, capsys.readouterr()
    page = (copy / "both.html").read_text()
    texts = parsed(page).texts
    shown = " ".join(texts)
    assert "tree.threshold 0.5 0.25" in shown and "lora.r" not in shown
    assert "paired by them" in shown and "+0.0 +0.0..+0.0" in shown
    data = json.loads(re.search(r'id="charts-data">([^<]*)<', page)[1])  # type: ignore[index]
    names = short_names([evaluated, copy])
    assert data and all([line["name"] for line in one["series"]] == names for one in data)
    assert all(one["series"][0]["y"] == one["series"][1]["y"] for one in data)


def test_differences_are_paired_only_on_the_same_questions(evaluated: Path, copy: Path) -> None:
    first, other = (
        Compared(name, contents, read_answers(folder, contents.evaluation)[0])
        for name, folder in (("a", evaluated), ("b", copy))
        for contents in [read_run(folder)[0]]
    )
    assert difference(first, other, "MA") == (0, 0)
    asked = [replace(one, id=f"{one.id}x") for one in other.outputs]
    low, high = difference(first, replace(other, outputs=asked), "MA")
    assert low < 0 < high and low == pytest.approx(-high)


def test_a_run_that_cannot_be_compared_is_named(evaluated: Path, tmp_path: Path, capsys) -> None:
    assert report.main(["--run", str(evaluated), "--run", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert report.main(["--run", str(evaluated), "--run", str(evaluated)]) == 0  # one run
    assert "report.html" in capsys.readouterr().out


# ---- untrusted text ----


@pytest.mark.parametrize("words", HOSTILE)
def test_text_becomes_no_markup(words: str) -> None:
    page = HTML.from_string(
        '<p title="{{ words }}">{{ words }}</p>{{ macros.grid(table, words) }}'
        "<script>{{ [words] | tojson }}</script>"
    )
    macros = HTML.get_template("macros.html").module
    made = page.render(words=words, table=Grid([words], [[words]]), macros=macros)
    assert [tag for tag, _ in parsed(made).elements] == [
        *("p", "div", "table", "thead", "tr", "th", "tbody", "tr", "td", "script"),
    ]
    bars = Bars(words, words, [words], {words: [1.0]})
    line = Chart(words, words, words, {words: ([1.0], [2.0])})
    shown = str(macros.bars(bars)) + str(macros.figure(line, 0))
    tags = {tag for tag, _ in parsed(shown).elements}
    assert not tags & {"script", "img", "b"} and "figure" in tags
    inside = re.search(r"<script>(.*)</script>", made)
    assert inside and json.loads(inside[1]) == [words]


def test_a_run_full_of_hostile_text(copy: Path, monkeypatch) -> None:
    bad = "".join(HOSTILE)
    questions = [json.loads(x) for x in (copy / "questions.jsonl").read_text().splitlines()]
    for row in questions:
        row["gold"] = bad
    replace_questions(copy, questions)
    result = read_checked(copy / "evaluation.json")
    result["systems"][0]["name"] = result["task"] = bad
    result["paired"][0]["b"] = bad
    write_checked(copy / "evaluation.json", result)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": "warning", "text": bad}) + "\n")
        file.write(json.dumps({"stage": f"sft/{bad}", "step": 1, "loss": 1.0}) + "\n")
        file.write(json.dumps({"stage": bad, "seconds": 1.0}) + "\n")
    (copy / "environment.json").write_text(json.dumps({"cpu": bad, "packages": {bad: bad}}))
    plan = {"stage": bad, "role": bad, "plan": 2, "fact": 3, "source": bad}
    (copy / "plan.json").write_text(json.dumps({"rows": [plan]}))
    plain = [tag for tag, _ in parsed((copy / "report.html").read_text()).elements]
    monkeypatch.setattr(Prompts, "decode", lambda *_: bad)
    assert report.main(["--run", str(copy)]) == 0
    page = (copy / "report.html").read_text()
    tags = [tag for tag, _ in parsed(page).elements]
    ours = {"b", "ul", "li"}  # warnings, and what is lacking
    assert set(tags) <= set(plain) | ours and "img" not in tags
    assert tags.count("b") - plain.count("b") <= 2
    assert tags.count("script") == plain.count("script")
    assert "\x1b" not in page and "\0" not in page
    assert data_of(page, "trees-0-0")[0]["text"][0] == bad
    assert not [a for _, a in parsed(page).elements if "onerror" in a]


def test_outputs_that_failed(copy: Path) -> None:
    path, store = copy / "round-0" / "forest.arrows", open_store(copy / "samples", writable=False)
    file = read_forest(path, store)
    assert file is not None
    rows = file.rows.copy()
    size = len(rows) // file.trees
    below = [n for n in range(1, size) if n == 1 or above_in(file.parents, n - 1) == 0]
    rows[below] = -1
    outcome = file.outcome.copy()
    outcome[below] = 255
    forest = forest_of(
        replace(file, rows=rows, check=np.where(rows < 0, 0, file.check), outcome=outcome), store
    )
    assert forest is not None
    made_from = file.fingerprint, file.grading, file.parents, rows, file.questions
    save_forest(path, forest, store, *made_from)
    assert report.main(["--run", str(copy)]) == 0
    tree = data_of((copy / "report.html").read_text(), "trees-0-0")[0]
    assert [tree["state"][n - 1] for n in below] == ["failed"] * len(below)
    assert tree["value"][0] is None and tree["text"][0] == "" and tree["label"][0] == -1


def above_in(parents: list[int], node: int) -> int:
    while parents[node] >= 0:
        node = parents[node]
    return node
