"""Strategies for configs, command lines, data sets and run directories with mistakes in them.

A case is a working folder and a command line; all paths in it are relative to that folder, where
`model` is a tiny model, `questions.jsonl` goes with it and `run` is a finished run (inputs.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import yaml
from hypothesis import strategies as st

from malt_fast.config.mistakes import settings
from malt_fast.config.schema import Config
from malt_fast.config.values import nested

Content = bytes | str | None  # of a file; or where a link points; or a folder
Depth = Literal["checks", "sampling", "all"]


@dataclass(frozen=True)
class Damage:
    """Damage to the `place`-th file or folder of a run."""

    how: str
    place: int
    number: int  # a place in a file, another file, a seed


@dataclass(frozen=True)
class Case:
    kind: str
    program: str
    words: tuple[str, ...]
    files: Mapping[str, Content] = field(default_factory=dict)
    damage: tuple[Damage, ...] = ()
    depth: Depth = "checks"  # how far the program runs, before heavy work


BASE = ("--model.name_or_path", "model", "--model.device", "cpu")
ARITHMETIC = (*BASE, "--task.limit", "4", "--task.test_limit", "2")
QUESTIONS = (*BASE, "--task.name", "jsonl", "--task.path", "questions.jsonl")

RUN = (
    *(*QUESTIONS, "--task.grader", "number", "--run", "run", "--report_to", "[]", "--lora.r", "2"),
    *("--sampling.temperature", "1", "--sampling.max_tokens", "1", "--tree.branching", "2,2,2"),
    *(
        "--train.sft.max_steps",
        "1",
        "--train.dpo.max_steps",
        "1",
        "--preferences.sft_source",
        "all",
    ),
    *("--evaluate.bootstrap", "100", "--evaluate.votes", "1"),
)
SWEEP = ("--sweep", "lora.r=4")
OTHER = "swept/sweeps/lora.r=4"  # a run whose adapters have other shapes
AGAIN = {  # commands that continue with a run
    "train": RUN,
    "evaluate": ("--run", "run"),
    "sweep": ("--run", "swept", *SWEEP),
    "serve": ("--run", "run", "--serve.port", "0"),
}


# ---- values ----

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(9 * ['*' + a])}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = 5000
ODD = (
    *("", " ", "null", "~", "true", "no", "nan", "inf", "-inf", ".nan", ".inf", "1e999", "-1"),
    *("0", "1", "2", "0.5", "1e-5", "9" * 5000, "9" * 30, "0x10", "1_000", "٣", "1,2,3", "[1,2,3]"),
    *("[", "{", "{a: 1}", "[[1]]", "'", '"', "&a [*a]", "&a {b: *a}", "*a", "!!int x", "!!int ''"),
    *(
        "!!float x",
        "!!bool x",
        "!!timestamp x",
        "!!binary x",
        "!!set [a]",
        "!!python/name:os.system",
    ),
    *("a: b", "- a", "%", "@", "\t", "\n", "a\nb", "\r", "\x1b[31mred", "\u202eabc", "\u2028"),
    *("\udcff", "\0", "x" * 100_000, "..", ".", "nowhere/x.yaml", "C:\\x", "--seed", "-h", "/"),
    *("[" * DEEP, "{a: " * DEEP, "{a: [1, 2, {b: null}]}", "=", "?", "!", "|", ">", "<<: *x"),
    *("questions.jsonl", "model", "c.yaml", "cuda:99", "a,b", ",", "[null]", "[a, [b]]", "{1: 2}"),
)
# No slash: nothing is to be written outside the working folder.
letters = st.characters(exclude_categories=(), exclude_characters="/")
texts = st.one_of(st.sampled_from(ODD), st.text(letters, max_size=12))
scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**30]),
    st.floats(),
    texts,
)
junk = st.recursive(
    scalars,
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(st.text(letters, max_size=4), below, max_size=3),
    ),
    max_leaves=6,
)

# ---- configs ----

FIELDS = {name: (info, default) for name, info, default in settings(Config)}
NAMES = [
    *FIELDS,
    *(f"{part}.roles.refiner" for part in ("sampling", "train.sft", "train.dpo", "model")),
    *("sampling.roles.refiner.top_p", "train.dpo.roles.verifier.beta", "model.roles.verifier"),
    *("evaluate.sampling.temperature", "evaluate.sampling.roles.refiner.top_k", "engine.vllm.seed"),
    *("engine.vllm.max_model_len", "sampling", "task", "sampling.roles", "model.roles.nobody"),
]
# Each is possible; some exclude others.
POSSIBLE = (
    *("--train.side_by_side true", "--train.regenerate sequential", "--train.dpo.loss_type ipo"),
    *("--train.dpo.label_smoothing 0.1", "--train.packing rows", "--train.load_in_4bit true"),
    *("--engine.name replay", "--engine.name vllm", "--engine.name openai", "--engine.name hf"),
    *(
        "--engine.path questions.jsonl",
        "--engine.base_url http://127.0.0.1:9",
        "--engine.replicas 2",
    ),
    *("--task.name gsm8k", "--task.name math", "--task.name csqa", "--task.name jsonl"),
    *("--task.name arithmetic", "--task.path questions.jsonl", "--task.test_path questions.jsonl"),
    *("--task.grader number", "--task.grader math", "--task.grader tests.questions:score"),
    *("--task.grader tests.questions:nobody", "--task.grader tests.nowhere:f", "--task.limit null"),
    *("--task.grader json:__doc__", "--task.question_column text", "--task.answer_column gold"),
    *("--task.subset_seed 1", "--task.id_column id", "--chain generator", "--chain solver,judge"),
    *("--chain generator,refiner", "--tree.branching 2,2", "--tree.branching 1000,1000,1"),
    *("--train.dpo_roles verifier", "--train.dpo_roles []", "--model.roles.refiner model"),
    *(
        "--model.roles.refiner nowhere",
        "--model.device cuda",
        "--model.device cuda:1",
        "--run here",
    ),
    *("--run questions.jsonl", "--run model", "--run run", "--run run/config.yaml", "--run full/x"),
    *(
        "--run loop",
        "--run here/and/there",
        "--report_to wandb",
        "--report_to all",
        "--report_to x",
    ),
    *("--report_to none", "--evaluate.suite paper", "--evaluate.votes 1000", "--serve.port 70000"),
    *("--serve.host 0.0.0.0", "--serve.host ::1", "--serve.port 1", "--sampling.max_tokens 1"),
    *("--model.name_or_path nowhere", "--model.name_or_path owner/name", "--task.path owner/name"),
    *(
        "--task.path full",
        "--model.chat_template questions.jsonl",
        "--task.prompts questions.jsonl",
    ),
)
PATHS = (
    *("run", "config", "task.path", "task.test_path", "task.prompts", "engine.path"),
    *("model.chat_template", "model.name_or_path", "model.roles.refiner"),
)
HOSTILE = (
    *(
        "a\0b",
        "a\udcffb",
        "a\ud800b",
        "x" * 5000,
        "",
        ".",
        "loop",
        "loop/x",
        "full",
        "full/notes.txt",
    ),
    *(
        "full/notes.txt/x",
        "nowhere/x",
        "a\nb",
        "questions.jsonl",
        "model/config.json",
        "ünï",
        "a b",
    ),
)
FOLDER = {"full": None, "full/notes.txt": b"mine", "loop": "loop"}  # in every working folder


def mistyped(name: str) -> st.SearchStrategy[str]:
    cut = st.integers(0, len(name)).map(lambda i: name[:i] + name[i + 1 :])
    twice = st.integers(0, len(name)).map(lambda i: name[:i] + name[i : i + 1] + name[i:])
    return st.one_of(
        cut, twice, st.sampled_from([name.upper(), f".{name}", f"{name}.", f"{name}.x"])
    )


def fitting(name: str) -> st.SearchStrategy[Any]:
    """A value of the setting's own kind, which may well be possible."""
    info, default = FIELDS.get(name, (None, None))
    own = get_args(info.annotation) if info is not None else ()
    words = [word for word in own if isinstance(word, str)]
    return (
        st.sampled_from(words)
        if words
        else st.sampled_from([default, default, default, 1, 0.5, True])
    )


names = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES).flatmap(mistyped), texts)


@st.composite
def options(draw: st.DrawFn) -> tuple[str, ...]:
    """A few words of a command line."""
    form = draw(st.sampled_from(["possible", "path", "apart", "equals", "alone", "odd", "fitting"]))
    if form == "possible":
        return tuple(draw(st.sampled_from(POSSIBLE)).split())
    if form == "fitting":
        name = draw(st.sampled_from(sorted(FIELDS)))
        value = draw(fitting(name))
        return f"--{name}", "null" if value is None else str(value)
    if form == "path":
        return f"--{draw(st.sampled_from(PATHS))}", draw(st.sampled_from(HOSTILE))
    if form == "odd":
        odd = ["--", "-", "--=", "--.=1", "--a..b=1", "---", "--config", "--run", "--help", "-h"]
        return (draw(st.one_of(st.sampled_from(odd), texts)),)
    name, value = draw(names), draw(texts)
    return {
        "apart": (f"--{name}", value),
        "equals": (f"--{name}={value}",),
        "alone": (f"--{name}",),
    }[form]


@st.composite
def yaml_files(draw: st.DrawFn) -> Content:
    """A config file: settings, possible or not, perhaps with a damaged text; or something else."""
    form = draw(st.sampled_from(["settings", "damaged", "junk", "raw", "bytes", "other"]))
    if form == "bytes":
        return draw(st.binary(max_size=60))
    if form == "other":
        return draw(
            st.sampled_from([None, "loop", "nowhere", b"", b"\xef\xbb\xbf", b"\xff\xfes\0"])
        )
    if form == "raw":
        return draw(st.sampled_from(RAW)).encode("utf-8", "surrogatepass")
    if form == "junk":
        return _dumped(draw(junk))
    setting = st.sampled_from(NAMES).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(fitting(name), junk))
    )
    text = _dumped(nested(draw(st.lists(setting, min_size=1, max_size=4))))
    return draw(damaged(text)) if form == "damaged" else text


RAW = (
    BOMB, f"seed: 1\n{BOMB}", f"task:\n  name: jsonl\n{BOMB}", "engine: {vllm: &a {b: *a}}\n",
    "seed: 1\nseed: 2\n", "task: {name: jsonl, name: gsm8k}\n", "a: &a {a: *a}\n", "&a [*a]\n",
    "task: &a\n  <<: *a\n", "<<: 3\n", "<<: [{seed: 1}]\n", "? [1]\n: 2\n", "? {a: 1}\n: 2\n",
    "1: 2\n", "null: 3\n", "true: 1\n", "1.5: 1\n", "seed: [" * DEEP, "{seed: " * DEEP,
    "\tseed: 1\n", "seed:\t1\n", "seed: 1\n---\nseed: 2\n", "%YAML 9.9\n---\nseed: 1\n",
    "seed: !!int x\n", "seed: !!float ''\n", "seed: !!timestamp x\n", "seed: !!bool x\n",
    "seed: !!python/object/apply:os.getcwd []\n", "seed: !!binary '@'\n", "seed: !x 1\n",
    "run: \"a\\0b\"\n", "run: \"\\ud800\"\n", f"run: {'r' * 5000}\n", f"seed: {'9' * 5000}\n",
    f"seed: {'9' * 400}.5\n", "seed: .inf\n", "sampling: {temperature: 1e999}\n", "chain: [[a]]\n",
    "tree: {branching: [1000000000000000000000]}\n", "chain: {a: b}\n", "task: {path: \"\\0\"}\n",
    "engine: {vllm: {a: \"[*b\"}}\n", "engine: {vllm: {a: '!!int x'}}\n", "\ufeffseed: 1\n",
    f"{'k' * 100_000}: 1\n", "report_to: [\"\\ud800\"]\n", "model: {name_or_path: \"\\0\"}\n",
    "task: {prompts: \"\\0\"}\n", "model: {chat_template: \"\\0\"}\n", "\x85seed: 1\n",
    "chain: [ä, ж, 中]\n", "chain: [\"a\\u200bb\"]\n", "\"a\\nb\": 1\n",
    "model: {device: \"cpu\\n\"}\n",
)  # fmt: skip


def _dumped(values: Any) -> bytes:
    text = yaml.dump(values, allow_unicode=True, Dumper=yaml.SafeDumper)
    return text.encode("utf-8", "surrogatepass")


PIECES = (
    b"\t", b"\0", b"\xff", b"\r", b"\r\n", b"\n", b"{", b"}", b"[", b'"', b"'", b"*", b"&", b"#",
    b": ", b"- ", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"%", b",", b"\x1b",
)  # fmt: skip


def damaged(text: bytes) -> st.SearchStrategy[bytes]:
    """A file's text with one mistake somewhere."""

    def put(at: int, piece: bytes) -> bytes:
        return text[:at] + piece + text[at:]

    at = st.integers(0, len(text))
    pieces = st.sampled_from(PIECES)
    latin = st.just(text.decode("utf-8", "replace").encode("latin-1", "replace") + b"\xe4")
    utf16 = st.just(text.decode("utf-8", "replace").encode("utf-16"))
    return st.one_of(
        st.builds(put, at, pieces),
        st.builds(put, at, pieces),
        at.map(lambda i: text[:i]),
        latin,
        utf16,
    )


SWEEPS = (
    "tree.threshold=0.3,0.6",
    "tree.threshold=0.5",
    "seed=1,2",
    "seed=x",
    "tree.branching=[2,2,1]",
)


@st.composite
def configs(draw: st.DrawFn) -> Case:
    program = draw(st.sampled_from(["train"] * 5 + ["evaluate", "serve", "sweep"]))
    words: list[str] = []
    if program == "train":
        words += draw(
            st.sampled_from([ARITHMETIC, ARITHMETIC, (*QUESTIONS, "--task.grader", "number"), ()])
        )
    elif draw(st.integers(0, 9)):
        words += ("--run", "run")
    if program == "sweep":
        made = st.builds("{}={}".format, names, texts)
        words += ("--sweep", draw(st.one_of(st.sampled_from(SWEEPS), made, texts)))
    files: dict[str, Content] = {}
    if draw(st.integers(0, 2)) == 0:
        files["c.yaml"] = draw(yaml_files())
        words += ("--config", "c.yaml")
    for group in draw(st.lists(options(), min_size=1, max_size=draw(st.sampled_from([1, 1, 3])))):
        words += group
    return Case("config", program, tuple(words), files)


# ---- data sets ----

LISTED = [{"label": letter, "text": f"thing {letter}"} for letter in "ABC"]
ROWS: dict[str, dict[str, Any]] = {
    "jsonl": {"question": "one or two?", "answer": "1"},
    "gsm8k": {"question": "How many are 1 + 1?", "answer": "1 + 1 = 2\n#### 2"},
    "math": {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "level": "Level 1"},
    "csqa": {"answerKey": "A", "id": "x", "question": {"stem": "What?", "choices": LISTED}},
}
LINES = (
    b"", b"   ", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b'{"question": NaN}', b"\xff\xfe",
    b"\0",
    b"[" * 200_000, b'{"a":' * 200_000, b"question,answer", b'{"a": 1}{"b": 2}',
    b'{"question": 1e999}', b'{"question": "x", "answer": ' + b"9" * 5000 + b"}",
    b'{"question": "\\ud800", "answer": "1"}', b'{"question": "x", "question": "y", "answer": "1"}',
    b"x" * 1_000_000, b"# a comment", b'{"question": "' + b"x" * 1_000_000 + b'", "answer": "1"}',
    b'{"question": "\x01", "answer": "1"}', b'{"question": "{generator} {{", "answer": "1"}',
    b'{"question": "<s></s><pad>", "answer": "2"}',
)  # fmt: skip
NOT_FILES: tuple[Content, ...] = (
    b"",
    b"\n\n",
    b"\xef\xbb\xbf",
    None,
    "nowhere",
    "loop",
    b"\x1f\x8b\x08",
)


@st.composite
def rows(draw: st.DrawFn, task: str, i: int) -> dict[str, Any]:
    """A row of a task, mostly a good one."""
    row = json.loads(json.dumps(ROWS[task]))
    place, key = (row["question"], "stem") if task == "csqa" else (row, next(iter(row)))
    place[key] += f" ({i})"
    if "id" in row or draw(st.integers(0, 5)) == 0:
        row["id"] = draw(st.one_of(st.just(f"q{i}"), st.sampled_from(["q1", "", 1, None]), junk))
    if draw(st.integers(0, 3)) == 0:
        inside = draw(st.sampled_from([row, place]))
        key = draw(st.sampled_from(sorted(inside)))
        if draw(st.booleans()):
            inside[key] = draw(
                st.one_of(junk, st.sampled_from(["\\boxed{}", "#### x", "\\boxed{1", "##"]))
            )
        else:
            del inside[key]
    return row


@st.composite
def row_files(draw: st.DrawFn, task: str) -> Content:
    if draw(st.integers(0, 11)) == 0:
        return draw(st.one_of(st.sampled_from(NOT_FILES), st.binary(max_size=80)))
    ascii_only = draw(st.booleans())
    made = [draw(rows(task, i)) for i in range(draw(st.integers(1, 5)))]
    lines = [
        json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for row in made
    ]
    if draw(st.integers(0, 2)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(LINES)))
    text = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r", b"\n\n"])).join(lines)
    return draw(damaged(text)) if draw(st.integers(0, 5)) == 0 else text


@st.composite
def data_sets(draw: st.DrawFn) -> Case:
    task = draw(st.sampled_from(sorted(ROWS)))
    train = draw(
        st.sampled_from(["data.jsonl", "train.jsonl", "train_rand_split.jsonl", "data.csv", "d"])
    )
    files = {train: draw(row_files(task))}
    words = [*BASE, "--task.name", task, "--task.path", train]
    if task == "math" and draw(st.booleans()):
        words[-1] = "d" if draw(st.booleans()) else "d/train"
        files = {"d": None}
        for split, name in draw(
            st.lists(st.tuples(*map(st.sampled_from, [("train", "test", ".x"), "ab"])))
        ):
            files |= {f"d/{split}": None, f"d/{split}/algebra": None}
            files[f"d/{split}/algebra/{name}.json"] = draw(row_files(task))
    beside = draw(
        st.sampled_from([None, None, "test.jsonl", "dev_rand_split.jsonl", "other.jsonl"])
    )
    if beside:
        files[beside] = draw(row_files(task))
        words += ("--task.test_path", beside) if beside == "other.jsonl" else ()
    grader = draw(st.sampled_from(["number", "math", "choice", "exact", "tests.questions:score"]))
    words += ("--task.grader", grader) if task == "jsonl" or draw(st.integers(0, 4)) == 0 else ()
    more = ["--task.id_column id", "--task.question_column answer", "--task.answer_column x"]
    more += ["--task.decontaminate false", "--task.limit 1", "--task.subset_seed 1"]
    for text in draw(st.lists(st.sampled_from(more), max_size=2)) if draw(st.booleans()) else []:
        words += text.split()
    return Case("data", "train", tuple(words), files)


WORDINGS = (
    "{question}", "{question} {generator}", "{question} {generator} {verifier}", "{", "}", "{{",
    "{}", "{0}", "{question!r}", "{question:>9}", "{question.x}", "{question} {question}",
    "{verifier}", "{nobody} {question}", "{question} {refiner}", "{{question}}", "", " ",
    "{question[0]}", "{ question}", "{question}\0", "{question} \ud800", "<s>{question}</s>",
    "Zq7malt0slot7qZ {question}", "{question}{", "{" * 3000 + "question" + "}" * 3000,
    "{question}" + "x" * 5000, "{question:{generator}}",
)  # fmt: skip
TEMPLATES = (
    "{{", "{% for %}", "{% endfor %}", "{{ messages }}", "{{ messages[0].content }}", "", "plain",
    "{#", "{{ raise_exception('no\nway') }}", "{{ messages[0]['content'] | upper }}",
    "{{ nobody.x.y }}", "{% for m in messages %}{{ m.content }}{% endfor %}", "{% include 'x' %}",
    "{% extends 'x' %}", "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    "{{ messages[7].content }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ 1 / 0 }}",
    "{{ 'x' * 10 ** 11 }}", "{% for i in range(10 ** 9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__ }}", "{{ messages | nobody }}", "{% set x = messages %}",
    "{{ messages[0].content }}\ud800", "{{ '%d' % 'x' }}", "{% break %}",
)  # fmt: skip
IDS = ("train-0", "train-1", "train-2", "train-3", "train-4", "nobody")


@st.composite
def wordings(draw: st.DrawFn) -> Case:
    """Custom prompts, and a chat template."""
    words, files = [*QUESTIONS, "--task.grader", "number"], {}
    if draw(st.booleans()):
        some = st.one_of(
            st.sampled_from(WORDINGS),
            junk,
            st.fixed_dictionaries({"user": st.sampled_from(WORDINGS)}),
        )
        roles = st.sampled_from(["generator", "verifier", "refiner", "direct", "debater", "x"])
        below = st.dictionaries(roles, some, max_size=3)
        values: dict[str, Any] = {}
        for key in draw(
            st.lists(st.sampled_from(["prompts", "prompts", "extra", "chat", "prompt"]), max_size=3)
        ):
            values[key] = draw(st.booleans() if key == "chat" else st.one_of(below, below, junk))
        text = _dumped(values)
        files["prompts.yaml"] = draw(damaged(text)) if draw(st.integers(0, 4)) == 0 else text
        words += ("--task.prompts", "prompts.yaml")
    if draw(st.booleans()):
        text = draw(st.sampled_from(TEMPLATES)).encode("utf-8", "surrogatepass")
        files["chat.jinja"] = draw(
            st.one_of(st.just(text), damaged(text), st.sampled_from([None, "loop"]))
        )
        words += ("--model.chat_template", "chat.jinja")
    if draw(st.integers(0, 3)) == 0:
        words += ("--evaluate.suite", "paper")
    return Case("data", "train", tuple(words), files)


REPLAY = (
    *(*QUESTIONS, "--task.grader", "number", "--tree.branching", "1,1,1", "--run", "new"),
    *("--engine.name", "replay", "--engine.path", "recorded.jsonl", "--report_to", "[]"),
    *("--preferences.sft_source", "all"),
)


@st.composite
def recordings(draw: st.DrawFn) -> Case:
    """Outputs for the replay engine."""
    lines: list[bytes] = []
    for name in IDS:
        for path in ([0], [0, 0], [0, 0, 0]):
            row: dict[str, Any] = {"question": name, "path": path, "text": "A: 1"}
            if draw(st.integers(0, 9)) == 0:
                del row["text"]
                row["token_ids"] = draw(
                    st.lists(st.sampled_from([0, 1, 2, 5, 258, 259, 2**31 - 1, 2**31]))
                )
            if draw(st.integers(0, 9)) == 0:
                key = draw(st.sampled_from([*row, "finish_reason", "text"]))
                row[key] = draw(st.one_of(junk, st.sampled_from(["length", [0], [-1], ""])))
            lines.append(json.dumps(row).encode())
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from([*LINES, lines[0]])))
    text = b"\n".join(lines)
    content = draw(
        st.one_of(st.just(text), st.just(text), damaged(text), st.sampled_from(NOT_FILES))
    )
    return Case("data", "train", REPLAY, {"recorded.jsonl": content}, depth="sampling")


data = st.one_of(data_sets(), data_sets(), wordings(), recordings())

# ---- run directories ----

HOW = (
    *(
        "delete",
        "empty",
        "cut",
        "flip",
        "noise",
        "folder",
        "other",
        "swap",
        "json",
        "dangle",
        "loop",
    ),
    *("file", "deny", "shape"),
)


@st.composite
def runs(draw: st.DrawFn) -> Case:
    """A finished run with one to three damages, and a program that reads it."""
    program = draw(st.sampled_from(["train", "train", "evaluate", "serve", "sweep"]))
    one = st.builds(Damage, st.sampled_from(HOW), st.integers(0, 999), st.integers(0, 999))
    return Case(
        "run",
        program,
        AGAIN[program],
        damage=tuple(draw(st.lists(one, min_size=1, max_size=3))),
        depth="all",
    )


KINDS: dict[str, st.SearchStrategy[Case]] = {"config": configs(), "data": data, "run": runs()}
