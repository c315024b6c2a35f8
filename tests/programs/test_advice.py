"""What messages advise can be typed: their options and packages exist."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires

import pytest

from malt_fast.config.habits import HABITS
from malt_fast.config.mistakes import check_known
from malt_fast.config.schema import Config
from malt_fast.utils.errors import MaltError
from malt_fast.utils.installing import install_command
from tests.config.test_help import PROGRAMS, ROOT

SAYING = {"MaltError", "ApiError", "warn", "say", "refusal"}
KNOWN = {name for program in PROGRAMS.values() for name, _, _ in program.options()}
KNOWN |= {"help", "config", "section.field", "KEY"}
KNOWN |= {"enable-lora", "lora-modules", "merge", "head"}  # of vLLM, llama.cpp and Ray


def texts() -> Iterator[tuple[str, str]]:
    """(place, text) of every message in the package; `X` stands for values in it."""
    for path in sorted(ROOT.glob("python/malt_fast/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and name_of(node.func) in SAYING:
                for part in (*node.args, *(keyword.value for keyword in node.keywords)):
                    for inner in ast.walk(part):
                        if isinstance(inner, ast.JoinedStr | ast.Constant):
                            yield f"{path.name}:{inner.lineno}", text_of(inner)


def name_of(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    value = getattr(node, "value", None)
    return value if isinstance(value, str) else "X"


def test_options_exist() -> None:
    seen = 0
    for place, text in texts():
        for name in re.findall(r"(?<![\w-])--([A-Za-z_][\w.-]*\w)", text):
            seen += 1
            if name not in KNOWN and "X" not in name:
                try:
                    check_known(Config, name)  # below a group, such as model.roles.generator
                except MaltError:
                    pytest.fail(f"{place} advises --{name}")
    assert seen > 40


def test_what_other_programs_say_is_a_setting_here() -> None:
    for name in HABITS.values():
        if name not in KNOWN:
            check_known(Config, name)
        assert name not in HABITS


def test_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert requires("malt-fast")
    for extra in ("vllm", "ray", "qlora", "gguf", "serve"):
        wanted = project["optional-dependencies"][extra]
        assert shlex.split(install_command(extra)) == ["pip", "install", *wanted]
