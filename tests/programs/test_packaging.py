"""What others install or read first: metadata, wheels, sdist, images, forms, citation."""

import json
import re
import subprocess
import sys
import tarfile
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests import wheel

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))


def tracked(*folders: str) -> list[str]:
    command = ["git", "ls-files", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a checkout")
    return done.stdout.splitlines()


def test_pythons_are_the_same_everywhere() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [f"3.{x.removeprefix(prefix)}" for x in PROJECT["classifiers"] if x.startswith(prefix)]
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert named == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed]
    built = [f"cp{python.replace('.', '')}-manylinux*" for python in named]
    assert SETTINGS["tool"]["cibuildwheel"]["build"].split() == built


def test_metadata() -> None:
    assert PROJECT["urls"] == {"Paper": "https://arxiv.org/abs/2412.01928"}
    assert not any(line.startswith("License") for line in PROJECT["classifiers"])
    for pattern in (PROJECT["readme"], *PROJECT["license-files"]):
        assert list(ROOT.glob(pattern)), pattern
    page = (ROOT / "docs/install.md").read_text()
    for extra in PROJECT["optional-dependencies"]:
        assert f"`.[{extra}]`" in page, extra


def test_a_wheel_would_pass_its_test() -> None:
    for command in SETTINGS["tool"]["cibuildwheel"]["test-command"]:
        for name in re.findall(r"{project}/(\S+)", command):
            assert (ROOT / name).is_file()
    wheel.main()


def test_the_sdist_is_what_is_tracked(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    code = f"from scikit_build_core.build import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()} - {"PKG-INFO"}
    left_out = tuple(
        name.lstrip("/") + "/" for name in SETTINGS["tool"]["scikit-build"]["sdist"]["exclude"]
    )
    missing = {name for name in tracked() if not name.startswith(left_out)} - found
    assert not {name for name in missing if (ROOT / name).exists()}
    assert not [
        name for name in found if re.search(r"\.(so|pyc|whl)$|^(build|dist|runs|\.venv)/", name)
    ]


def test_images_get_every_file_that_the_package_is_built_from() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_in = [line[1:] for line in lines if line.startswith("!")]
    shut_out = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    needed = ["CMakeLists.txt", "pyproject.toml", "constraints.txt", PROJECT["readme"], "LICENSE"]
    needed += re.findall(r"[\w/]+\.cpp", (ROOT / "CMakeLists.txt").read_text())
    needed += tracked("csrc", *SETTINGS["tool"]["scikit-build"]["wheel"]["packages"].values())
    for name in needed:
        assert any(name == top or name.startswith(f"{top}/") for top in let_in), name
        assert not any(fnmatch(part, rule) for part in name.split("/") for rule in shut_out), name


def test_images_are_pinned_and_end_as_an_ordinary_user() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = {
        name: (image, body)
        for image, name, body in re.findall(
            r"^FROM (\S+) AS (\w+)\n(.*?)(?=^FROM|\Z)", text, re.M | re.S
        )
    }
    page = (ROOT / "docs/install.md").read_text()
    for image, _ in stages.values():
        assert image in stages or re.search(r":\d+\.\d+\.\d+-", image), image
    for target in re.findall(r"--target (\w+)", page):
        assert re.findall(r"^USER (\S+)", stages[target][1], re.M)[-1] == "1000"
    for found in re.findall(r"\)\[([\w,]+)\]", text):
        assert set(found.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_dev_container_makes_what_the_tests_need() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    target = container["postCreateCommand"].removeprefix("make ")
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_the_citation_names_the_version_and_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["authors"] == PROJECT["authors"]
    assert cited["references"][0]["url"] == PROJECT["urls"]["Paper"]


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_what_explains_a_run(form: Path) -> None:
    text = form.read_text()
    fields = [one for one in yaml.safe_load(text)["body"] if one["type"] != "markdown"]
    ids = [one["id"] for one in fields]
    assert len(ids) == len(set(ids))
    for word in ("environment.json", "config.yaml", "last lines"):
        assert word in text
    for name in re.findall(r"`((?:docs/[\w.]*|[A-Z]+\.md))`", text):
        assert (ROOT / name).exists(), name
