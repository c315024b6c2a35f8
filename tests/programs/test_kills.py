"""Ten kills of tiny runs; `make faults` has hundreds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--runs", "2", "--kills", "10", "--work", str(tmp_path), "--json", str(report)]
    command = [sys.executable, "-m", "tests.faults.kills", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert told["kills"] >= 10 and not told["problems"]
