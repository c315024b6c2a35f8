"""README and docs: links lead somewhere, commands are real, blocks run, files are as described."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from malt_fast.__main__ import COMMANDS
from malt_fast.completion import SHELLS
from malt_fast.config.arguments import parse_arguments
from malt_fast.config.command import check_given
from malt_fast.config.load import make, with_task_defaults
from malt_fast.tasks.rules import check_task
from tests.docs.settings_page import PAGE, settings_page

ROOT = Path(__file__).resolve().parents[2]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted(ROOT.glob("docs/*.md"))]
ELSEWHERE = {  # commands of others, and what they need that is not here
    **dict.fromkeys(("accelerate", "torchrun", "vllm", "sglang"), "GPUs"),
    **dict.fromkeys(("ray", "srun", "sbatch", "ssh", "rsync"), "a cluster"),
    **dict.fromkeys(("curl", "lm_eval", "lighteval", "tensorboard", "inspect"), "a server"),
    **dict.fromkeys(("export", "source", "cd"), "a shell that goes on"),
    **{"xdg-open": "a screen", "hf": "the hub", "git": "an address", "docker": "an image"},
    **{"openssl": "nothing, but it is not ours", "apt-get": "root"},
}


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block."""
    for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", path.read_text(), re.M | re.S):
        yield found[1], found[2]


def commands(path: Path) -> Iterator[list[str]]:
    """Words of every command in blocks that hold commands."""
    for language, text in blocks(path):
        lines = text.replace("\\\n", " ").splitlines()
        if language not in ("", "bash", "sh", "console") or not any(map(known, lines)):
            continue
        whole = ""
        for line in lines:
            whole += f"\n{line}" if whole else line
            try:
                words = shlex.split(whole, comments=True)
            except ValueError:  # a quotation that goes on
                continue
            whole = ""
            if words and words[0] != "...":
                yield words


def known(line: str) -> bool:
    word = re.sub(r"^(\w+=\S* )+", "", line.strip()).split(" ")[0]
    return word in {*ELSEWHERE, "python", "make", "pip", "malt-fast"}


def check(words: list[str]) -> None:
    """A command as far as it can be checked without what it needs."""
    while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        words = words[1:]
    if not words:
        return
    program, rest = words[0], [w for w in words[1:] if w != "..."]
    if program == "malt-fast":
        if rest[:1] == ["completion"]:
            assert rest[1] in SHELLS
        elif rest and not rest[0].startswith("-"):
            assert rest[0] in COMMANDS, words
            check_program(rest[0], rest[1:])
    elif "malt_fast.train" in rest:
        check_program("train", [w for w in rest[rest.index("malt_fast.train") + 1 :] if w != "--"])
    elif program == "python" and rest[:1] == ["-m"]:
        name = rest[1].removeprefix("malt_fast.")
        if name in COMMANDS:
            check_program(name, rest[2:])
        else:
            assert (ROOT / "python/malt_fast" / (name.replace(".", "/") + ".py")).is_file() or (
                ROOT / (rest[1].replace(".", "/") + ".py")
            ).is_file(), words
    elif program == "python":
        assert (ROOT / rest[0]).is_file() or "{" in rest[0], words
    elif program == "make":
        targets = re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.M)
        names = {name for line in targets for name in line.split()}
        assert {w for w in rest if "=" not in w} <= names, words
        for given in (w for w in rest if w.startswith("ARGS=")):
            assert "run" in rest, words
            check_program("train", shlex.split(given.removeprefix("ARGS=")), first=True)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "optional-dependencies"
        ]
        ours = " ".join(word for word in rest if word.startswith((".", "malt-fast")))
        for found in re.findall(r"\[([\w,-]+)\]", ours):
            assert set(found.split(",")) <= set(extras), words
    elif program == "docker" and rest[0] == "run":
        ours = next(i for i, word in enumerate(rest) if word.partition(":")[0] == "malt-fast")
        check_program(rest[ours + 1], rest[ours + 2 :], first=True)
    else:
        assert program in ELSEWHERE, f"what is {words}?"


def check_program(name: str, words: list[str], *, first: bool = False) -> None:
    """The arguments, by the program's own parser; files that a user brings need not be there.

    first: the command is the first one of its run.
    """
    program = import_module(f"malt_fast.{name}").PROGRAM
    for i in [i for i, word in enumerate(words) if re.match("runs/.*/config.yaml$", word)]:
        words = [*words[: i - 1], *words[i + 1 :]]  # `--config` with the settings of a run
    configs = [i for i, word in enumerate(words, 1) if word == "--config"]
    absolute = [str(ROOT / word) if i in configs else word for i, word in enumerate(words)]
    values, topic = parse_arguments(program, absolute)
    if first:
        check_given(program, values)
    if topic is None:
        taken = make(program.takes, with_task_defaults(values) if configs else values)
        if "name" in values.get("task", {}):
            check_task(taken.task)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_are_real(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no run is
    for words in commands(page):
        check(words)


def test_what_is_no_command_is_noticed() -> None:
    for line in (
        "python -m malt_fast.train --tree.branchings 3", "make nothing", "pip install '.[nope]'",
        "malt-fast trane", "unheard of", "python benchmarks/bench_nothing.py",
        "python -m malt_fast.export --rum x", "python -m malt_fast.train --plan many",
        "python -m malt_fast.train --task.name gsm8k --run runs/new",
        "make run ARGS='--run runs/new'", "docker run malt-fast:cpu train --run runs/new",
    ):  # fmt: skip
        with pytest.raises((Exception, SystemExit)):
            check(shlex.split(line))


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    named = {found[1] for title in titles if (found := re.search(r"\{ ?#([\w-]+) ?\}", title))}
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
    return named | slugs


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or file.suffix != ".md" or anchor in anchors(file), (
            f"{page.name}: {target}"
        )
    folders = "benchmarks|examples|configs|docs|tests|kernels|csrc"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        assert (ROOT / name).exists() or "NAME" in name, f"{page.name}: {name}"
    for name in re.findall(r"`(results/[\w./-]+)`", text):
        assert page.name == "benchmarks.md", f"{page.name}: write benchmarks/{name}"
        assert (ROOT / "benchmarks" / name).exists(), f"{page.name}: {name}"


def test_the_map_is_true() -> None:
    (tree,) = [text for _, text in blocks(ROOT / "CONTRIBUTING.md") if text.startswith("csrc/")]
    names = re.findall(r"(?<![\w/.])([a-z_0-9]+(?:\.py|/))", tree)
    package = ROOT / "python/malt_fast"
    places = [ROOT, ROOT / "python", *(p for p in package.rglob("*") if p.is_dir()), package]
    places += [ROOT / name for name in ("kernels", "csrc", "benchmarks")]
    for name in names:
        assert any((place / name).exists() for place in places) or name == "malt_fast/", name


@pytest.mark.parametrize("file", ("Makefile", ".ci/run", "benchmarks/gpu.sh"))
def test_scripts_name_files_that_are_there(file: str) -> None:
    for name in re.findall(
        r"(?<![\w./])((?:tests|benchmarks|csrc)/[\w./]+\.\w+)", (ROOT / file).read_text()
    ):
        assert (ROOT / name).exists(), f"{file}: {name}"


# ---- python blocks ----


@pytest.fixture(scope="module")
def finished(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("docs")
    shutil.copytree(finished_run, home / "runs" / "gsm8k")
    return home


@pytest.mark.parametrize("page", ["docs/kernels.md", "docs/durable.md"])
def test_python_blocks_run(finished: Path, page: str) -> None:
    """A page as one program, beside a run; names of the kernels' page stand for small tensors."""
    texts = [text for language, text in blocks(ROOT / page) if language == "python"]
    here = [text for text in texts if "import malt_fast.api" not in text]  # which test_api.py runs
    code = "\n".join([PRELUDE, *here] if any("head.weight" in text for text in here) else here)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


PRELUDE = """
import torch
head = torch.nn.Linear(16, 50, bias=False)
head.weight.requires_grad_(False)
hidden = torch.randn(6, 16)
rows, targets = torch.tensor([0, 1, 1, 5]), torch.tensor([3, 7, 9, 0])
logits = torch.randn(4, 50)
ref_logp, pairs = torch.zeros(4), torch.tensor([[0, 1], [2, 3]])
owner = torch.arange(4)
"""


# ---- files ----


def table(page: Path, title: str) -> list[list[str]]:
    """Rows of the first table under a heading."""
    under = page.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split("|") for line in under.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_files_are_as_described(finished: Path) -> None:
    page, folder = ROOT / "docs/files.md", finished / "runs" / "gsm8k"
    for title, file in (
        ("samples/samples-NNNNN.arrows", folder / "samples" / "samples-00000.arrows"),
        ("round-N/forest.arrows", folder / "round-0" / "forest.arrows"),
    ):
        with pa.ipc.open_stream(pa.OSFile(str(file))) as reader:
            schema = reader.schema
        columns = [(row[0].strip("`"), row[1]) for row in table(page, title)]
        assert columns == [
            (name, str(kind)) for name, kind in zip(schema.names, schema.types, strict=True)
        ]
    for name, columns in table(page, "round-N/data/ROLE"):
        file = folder / "round-0" / "data" / "refiner" / name.strip("`")
        assert re.findall(r"`(\w+)`", columns) == pq.read_schema(file).names
    assert set(np.load(folder / "round-0/refiner/references.npz")) == {"keys", "logp"}
    text = page.read_text().split("## samples")[0]
    for path in folder.iterdir():
        assert f"`{path.name}" in text or path.name in ("round-0",), path.name


def test_the_page_of_settings_is_that_of_the_settings() -> None:
    made = "`python -m tests.docs.settings_page` makes it again"
    assert PAGE.read_text(encoding="utf-8") == settings_page(), made


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pages = [path.stem for path in ROOT.glob("docs/*.md")]
    assert {path.stem for path in site.glob("*.html")} >= set(pages)
    found = "".join(path.read_text() for path in site.glob("*.html"))
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', found)
    shutil.rmtree(site)
