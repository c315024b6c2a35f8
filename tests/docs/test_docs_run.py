"""Commands and Python of README and docs, run as they stand, on a task and a model that are tiny.

Only what cannot be here is left out: a GPU, a cluster, the hub, a screen, other people's programs.
`make`'s targets, `accelerate launch`, Ray and vLLM have tests of their own.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from malt_fast import (
    evaluate,
    export,
    report,
    sweep,
    train,
)
from tests.docs.test_docs import PAGES, ROOT, blocks, commands
from tests.small_run import FAST, write_model

PROGRAMS = {
    "train": train,
    "evaluate": evaluate,
    "sweep": sweep,
    "report": report,
    "export": export,
}
SMALL = [  # what stands for a large model, for the hub, and for its GPU
    *("--engine.name", "hf", "--engine.replicas", "1", "--train.side_by_side", "false"),
    *("--model.device", "cpu", "--train.load_in_4bit", "false", "--train.pack_tokens", "1024"),
    *("--train.use_liger_kernel", "false"),
    *("--train.sft.bf16", "false", "--train.dpo.bf16", "false", "--task.limit", "20"),
    *FAST,
]
PATHS = {"gsm8k": "train.jsonl", "jsonl": "questions.jsonl"}


def write_home(folder: Path) -> Path:
    """A folder like the repository's, with the data that the pages speak of."""
    for name in ("configs", "benchmarks", "python"):
        (folder / name).symlink_to(ROOT / name)
    write_model(folder / "model")
    for name, count in (("train", 20), ("test", 4), ("questions", 20)):
        rows = [
            {"question": f"one or two? ({name} {i})", "answer": f"{1 + i % 2}\n#### {1 + i % 2}"}
            for i in range(count)
        ]
        if name == "questions":
            rows = [row | {"answer": row["answer"][0]} for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def ours() -> Iterator[tuple[str, list[str]]]:
    """(program, its arguments) of every command of the pages that is about a run here."""
    seen = set()
    for page in PAGES:
        for words in commands(page):
            words = [word for word in words if word != "..."]
            found = re.fullmatch(r"python -m malt_fast\.(\w+)(.*)", shlex.join(words))
            if found is None or found[1] not in PROGRAMS or "openai" in words:
                continue
            if "--inspect" in words and find_spec("inspect_ai") is None:
                continue
            if found[0] not in seen:
                seen.add(found[0])
                yield found[1], words[3:]


def continues(home: Path, words: list[str]) -> bool:
    """Whether task and model are those of a run that is there."""
    if "--run" not in words or {"--task.name", "--config"} & {*words}:
        return False
    return (home / words[words.index("--run") + 1] / "config.yaml").is_file()


def run_programs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training in the order of the pages, then what is made of runs."""
    every = sorted(ours(), key=lambda one: list(PROGRAMS).index(one[0]))
    assert {name for name, _ in every} == set(PROGRAMS)
    for name, words in every:
        words = [word.replace("/shared/", "shared/") for word in words]  # below home
        given = words
        if name == "train":
            given = [*words, *SMALL, "--sampling.max_tokens", "1"]
            if not continues(home, words):
                task = words[words.index("--task.name") + 1] if "--task.name" in words else "gsm8k"
                given += [] if "--run" in words else ["--run", "runs/gsm8k"]
                given += ["--task.name", task]
                if "--task.path" in words or "--task.name" not in words:
                    given += ["--task.path", PATHS[task]]
                given += ["--model.name_or_path", "model"]
        code = PROGRAMS[name].main(given)
        printed = capsys.readouterr()
        assert code == 0, f"{name} {shlex.join(words)}\n{printed.out[-500:]}\n{printed.err}"
    run = home / "runs" / "gsm8k"
    assert (run / "plan.json").is_file() and (run / "tables").is_dir()
    roles = {folder.name for folder in (run / "export" / "adapters").iterdir()}
    assert roles == {"generator", "verifier", "refiner"}
    assert len(list((run / "sweeps").iterdir())) == 3
    assert (run / "export" / "merged" / "refiner" / "model.safetensors").is_file()
    assert (home / "runs" / "mine" / "report.html").is_file()


def texts(page: str) -> str:
    return "\n".join(text for language, text in blocks(ROOT / page) if language == "python")


def run_python(home: Path, page: str) -> None:
    """All of its blocks, as one program. (Those of other pages: test_docs, _examples, _export.)"""
    words = [sys.executable, "-c", texts(page)]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def command(page: str, beginning: str) -> list[str]:
    return next(w for w in commands(ROOT / page) if shlex.join(w).startswith(beginning))


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """The first group of a pattern, in what a server says at its start."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(said)


def ask_the_server(home: Path) -> None:
    """As the page does."""
    curl = command("docs/serve.md", "curl")
    words = [sys.executable, *command("docs/serve.md", "python -m")[1:], "--serve.port", "0"]
    with subprocess.Popen(
        words, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        at = wait_for(server, r"(http://[\d.:]+)/v1")
        asked = [word.replace("http://127.0.0.1:8000", at) for word in curl]
        for _ in range(100):  # until the weights are there
            done = subprocess.run([*asked, "-s"], capture_output=True, text=True)
            if done.returncode == 0:
                break
            time.sleep(0.2)
        answer = json.loads(done.stdout)
        assert answer["model"] == "gsm8k" and answer["choices"][0]["message"]["content"]
        server.terminate()
        assert server.wait(60) in (0, 130)


def open_tensorboard(home: Path) -> None:
    program = Path(sys.executable).with_name("tensorboard")
    words = [str(program), *command("docs/watching.md", "tensorboard")[1:], "--port", "0"]
    with subprocess.Popen(
        words, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as server:  # fmt: skip
        try:
            at = wait_for(server, r"(http://localhost:\d+/)")
            for _ in range(100):  # until it has read them
                with urllib.request.urlopen(f"{at}data/plugin/scalars/tags") as reply:
                    tags = {tag for one in json.load(reply).values() for tag in one}
                if tags:
                    break
                time.sleep(0.2)
        finally:
            server.kill()
    assert {"eval/gsm8k/MALT", "data/refiner/pairs", "perf/evaluate/seconds"} <= tags


def test_what_the_pages_say_can_be_done(tmp_path: Path, monkeypatch, capsys) -> None:
    """In one test, since each works on the runs that the ones before made."""
    home = write_home(tmp_path)
    monkeypatch.chdir(home)
    run_programs(home, capsys)
    for page in ("docs/serve.md", "docs/grading.md", "docs/own-grader.md"):
        run_python(home, page)
    if shutil.which("curl") is not None:
        ask_the_server(home)
    open_tensorboard(home)
