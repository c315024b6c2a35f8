"""Bad input gives one sentence: a few hundred cases of tests/faults/inputs.py, and old findings."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from malt_fast.config.yaml_files import DEEPEST, read_yaml
from malt_fast.utils.errors import MaltError
from tests.faults.input_cases import AGAIN, ARITHMETIC, BOMB, KINDS, REPLAY, Case, Damage
from tests.faults.inputs import complaint, outcome
from tests.volume import volume


@pytest.mark.hypothesis
@pytest.mark.parametrize(("kind", "cases"), [("config", 140), ("data", 130), ("run", 30)])
def test_every_case_is_a_success_or_a_sentence(kind: str, cases: int) -> None:
    @settings(
        max_examples=volume(cases),
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind])
    def one(case: Case) -> None:
        found = outcome(case)
        assert not found.startswith("finding"), found

    one()


def config(*words: str, **files: bytes) -> Case:
    named = {f"{name}.yaml": content for name, content in files.items()}
    chosen = [word for name in named for word in ("--config", name)]
    return Case("config", "train", (*ARITHMETIC, *chosen, *words), named)


FOUND = {
    "control characters": config("--a\nb\x1b[31m", "1"),
    "a bomb of aliases": config(c=BOMB.encode()),
    "an alias of itself": config("--engine.vllm", "&a {b: *a}"),
    "a tag that does not fit": config("--seed", "!!int x"),
    "a number of 5000 digits": config(c=b"seed: " + b"9" * 5000),
    "brackets without end": config("--chain", "[" * 5000),
    "a key given twice": config(c=b"seed: 1\nseed: 2\n"),
    "a path with a NUL": config("--run", "a\0b"),
    "half a character": config(c=b'task: {path: "\\ud800"}'),
    "a path too long": config("--run", "x" * 5000),
    "a loop of links": config("--run", "loop"),
    "null over a number": config("--evaluate.sampling.min_p", "null"),
    "recordings nested too deeply": Case(
        "data", "train", REPLAY, {"recorded.jsonl": b'{"a":' * 100_000}, depth="sampling"
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_old_findings(name: str) -> None:
    assert outcome(FOUND[name]).startswith("error: ")


@pytest.mark.parametrize("place", range(0, 60, 9))
def test_an_evaluation_reads_no_noise(place: int) -> None:
    """Noise in the weights or config of an adapter, in the prompts, in the config, ..."""
    damage = (Damage("noise", place, 3),)
    case = Case("run", "evaluate", AGAIN["evaluate"], damage=damage, depth="all")
    assert not outcome(case).startswith("finding")


NO_SENTENCES = (
    *("", "error: a: b", "error: a: b\nmore\n", "error: a\x1b: b\n", "error: [Errno 2] x: y\n"),
    *("Traceback\nValueError: x\n", "error: no reason, no fix\n", f"error: {'x' * 2000}: y\n"),
)


@pytest.mark.parametrize("err", NO_SENTENCES)
def test_a_bad_message_is_a_finding(err: str) -> None:
    assert complaint(err).startswith("finding")
    assert complaint("error: the thing is wrong: mend it\n") == ""


def test_a_removed_check_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    case = config("--\x1b[1m", "1")
    assert outcome(case).startswith("error: ")
    monkeypatch.setattr("malt_fast.utils.exit_status.one_line", lambda text: text)
    assert outcome(case).startswith("finding: control characters")


def test_nesting_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("a: " + "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2))
    read_yaml(file)
    file.write_text("a: " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))
    with pytest.raises(MaltError, match="nested too deeply"):
        read_yaml(file)
