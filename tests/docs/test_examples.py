"""Examples run, in small; the notebook is the script; the code of docs/api.md runs."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from malt_fast.grading import calls
from malt_fast.planning.plan_file import read_plan
from tests.docs.notebook import EXAMPLES, notebook
from tests.small_run import run, write_model, write_questions

DOCS = EXAMPLES.parent / "docs" / "api.md"


def example(name: str, folder: Path, *words: str, **environment: str) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def called(name: str, *arguments: str | int) -> None:
    """What an example does when it is a program, without the seconds that one takes to start."""
    runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


def test_every_example_is_tested_and_says_what_it_is():
    files = {file.name for file in EXAMPLES.glob("*.py")}
    text = Path(__file__).read_text()
    for name in files:
        assert f'example("{name}"' in text or f'called("{name}"' in text, name
        tree = ast.parse((EXAMPLES / name).read_text())
        assert len(ast.get_docstring(tree) or "") > 40, name


def test_quickstart(tmp_path):
    text = example("quickstart.py", tmp_path, QUESTIONS="8")
    assert "Forest(8 questions, 312 outputs of generator, verifier, refiner" in text
    assert "Preferences(refiner, " in text and "MALT+MV@3" in text and "--- refiner, pass 3" in text
    assert (tmp_path / "runs/quickstart/refiner/sft/adapter_model.safetensors").is_file()


def test_the_notebook_is_the_script():
    script = (EXAMPLES / "quickstart.py").read_text(encoding="utf-8")
    assert (EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8") == notebook(script)


def test_custom_task(capsys):
    called("custom_task.py", 5)
    text = capsys.readouterr().out
    assert "'outputs': 135" in text and "sums, 5 held-out questions" in text


def test_custom_grader(tmp_path):
    text = example("custom_grader.py", tmp_path, "8")
    strict, lenient = (float(share) for share in re.findall(r"([\d.]+)% of 216 leaves right", text))
    assert 0 < strict < lenient


class Judge(BaseHTTPRequestHandler):
    """Fails the first request; says a score if the answer holds the reference answer."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[dict]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body | {"path": self.path, "key": self.headers["Authorization"]})
        reference, answer = re.findall(r"answer.*:\n(.*)", body["messages"][0]["content"])[:2]
        said = f"Score 3 would be mean. Score: **{10 if reference in answer else 0}**"
        reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(503 if len(self.asked) == 1 else 200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


def test_llm_judge(tmp_path, capsys, monkeypatch):
    """A plan and a run whose grader is a server that fails once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.0)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    model, data = write_model(tmp_path / "model"), write_questions(tmp_path / "data.jsonl")
    options = ("--task.grader", "llm_judge:judge", "--task.grader_workers", "8")
    options += ("--tree.branching", "2,2,1", "--evaluate.limit", "2")
    assert run(data, model, tmp_path / "run", *options) == 2
    assert "JUDGE_URL and JUDGE_MODEL must be set" in capsys.readouterr().err
    monkeypatch.setenv("JUDGE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("JUDGE_MODEL", "a judge")
    sys.modules.pop("llm_judge", None)
    try:
        assert run(data, model, tmp_path / "run", *options, "--plan") == 0
        _, rows = read_plan(tmp_path / "run")
        found = {(row.stage, row.quantity): row.plan for row in rows}
        outputs = found["evaluate", "outputs"]
        assert found["grading", "calls of the grader"] == 18 * 4
        assert found["evaluate", "calls of the grader"] == outputs
        hours = found["grading", "time"] + found["evaluate", "time of the grader"]
        assert 0 < hours < found["all", "time"]
        planned = len(Judge.asked)
        assert run(data, model, tmp_path / "run", *options) == 0
        called("llm_judge.py", "What is 2 + 2?", "4", "It is 5.")
    finally:
        server.shutdown()
    assert capsys.readouterr().out.splitlines()[-1] == "0.0"
    assert planned < len(Judge.asked) <= planned + outputs + 1  # the run judges none of them again
    (one,) = {(r["model"], r["path"], r["key"], r["temperature"]) for r in Judge.asked}
    assert one == ("a judge", "/v1/chat/completions", "Bearer none", 0)


def test_custom_chain(capsys):
    called("custom_chain.py", 5)
    text = capsys.readouterr().out
    assert "5 questions, 30 outputs of generator, reviser" in text
    assert "5 questions, 150 outputs of generator, verifier, refiner, finisher" in text


def test_answer(tmp_path, capsys):
    model, data = write_model(tmp_path / "model"), write_questions(tmp_path / "data.jsonl")
    few = ("--task.limit", "6", "--task.test_limit", "2")
    assert run(data, model, tmp_path / "run", *few) == 0
    called("answer.py", str(tmp_path / "run"), "one or two?")
    text = capsys.readouterr().out
    assert "one or two?" in text and "--- refiner, pass 3 ---" in text and "votes" in text


def test_code_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    module = types.ModuleType("of_the_documentation")  # where a grader is found by its name
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks:
        exec(block.replace("200", "8"), vars(module))
    text = capsys.readouterr().out
    assert "Forest(8 questions" in text and "MALT+MV@3" in text and "votes" in text
    assert len(module.forest) == 10 and module.forest.nodes.level.max() == 2
