"""Configs from nested values, YAML files, task defaults and finished runs; and back to YAML."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from malt_fast.config.mistakes import check_file, sentence
from malt_fast.config.rules import check
from malt_fast.config.schema import PACKAGE, Config, TaskConfig
from malt_fast.config.sections import Section, split
from malt_fast.config.values import lookup, merge
from malt_fast.config.yaml_files import read_yaml, yaml_text
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import check_files

S = TypeVar("S", bound=Section)


def make(section: type[S], values: Mapping[str, Any]) -> S:
    """Validated settings from nested values. Raises MaltError for the first mistake."""
    try:
        made = section.model_validate(values)
    except ValidationError as error:
        raise MaltError(sentence(section, error)) from None
    if isinstance(made, Config):
        check(made)
    return made


def make_config(values: Mapping[str, Any]) -> Config:
    """A validated config from nested values. Raises MaltError for the first mistake."""
    return make(Config, values)


def load_config_file(path: Path) -> Config:
    """The config in a YAML file. Raises MaltError, naming the file, for the first mistake."""
    values = read_yaml(path)
    check_file(Config, path, values)
    try:
        return make_config(with_task_defaults(values))
    except MaltError as error:
        raise MaltError(f"{path}: {error}") from None


def saved_config(takes: type[S], values: Mapping[str, Any], may_change: tuple[str, ...]) -> S:
    """The settings of the finished run `values["run"]`, changed by `values`.

    Raises MaltError if a setting changes whose dotted key starts with none of `may_change`.
    """
    folder = values.get("run")
    if folder is None:
        make(takes, with_task_defaults(values))  # a misspelt --run is the mistake to report
        raise MaltError("--run is missing: give --run DIR, a directory that malt_fast.train made")
    file = Path(str(folder)) / "config.yaml"
    if not file.is_file():
        raise MaltError(f"{folder} holds no run: give a directory that malt_fast.train made")
    check_files(file.parent)
    config = make(takes, over_saved(values))
    before = load_config_file(file)
    fixed = [key for key in differences(before, config) if not key.startswith(may_change)]
    if fixed:
        were, them = ("were", "them") if len(fixed) > 1 else ("was", "it")
        raise MaltError(
            f"{', '.join(fixed)} {were} fixed by training: remove {them} from the command, or "
            "train another run"
        )
    return config


def over_saved(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values over the settings of the run `values["run"]`, if there is one already.

    Another task begins with that task's defaults instead: few settings fit both. Raises MaltError,
    naming the file, for a saved config that is not valid.
    """
    file = Path(str(values.get("run"))) / "config.yaml"
    if values.get("run") is None or not file.is_file():
        return with_task_defaults(values)
    saved = read_yaml(file)
    check_whole(file, saved)
    check_file(Config, file, saved)
    task = lookup(saved, ("task", "name"), None)
    same = lookup(values, ("task", "name"), task) == task
    return with_task_defaults(merge(saved, values) if same else values)


def check_whole(file: Path, values: Mapping[str, Any]) -> None:
    """Raises MaltError unless a file gives every section, as the config of a run does."""
    lost = [name for name in Config.model_fields if name != "run" and name not in values]
    if lost:
        raise MaltError(
            f"{file} lacks '{lost[0]}', which the settings of a run have: it is another program's "
            "or damaged, so restore it, or give another --run DIR"
        )


def plain_config(command: Config) -> Config:
    """A program's command without the options that are no settings."""
    return Config.model_validate(command.model_dump())


# ---- defaults of tasks ----


def with_task_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values over the defaults of the task that they name."""
    name = lookup(values, ("task", "name"), TaskConfig.model_fields["name"].default)
    chain = split(lookup(values, ("chain",), Config.model_fields["chain"].default))
    return merge(_for_chain(task_defaults(str(name)), chain), values)


def task_defaults(name: str) -> dict[str, Any]:
    """The `defaults:` of a task's YAML file; none for an unknown task."""
    known = get_args(TaskConfig.model_fields["name"].annotation)
    if name not in known:
        return {}
    defaults: dict[str, Any] = read_yaml(PACKAGE / "tasks" / f"{name}.yaml").get("defaults", {})
    return defaults


def _for_chain(values: Mapping[str, Any], chain: object) -> dict[str, Any]:
    """`values` without overrides for roles that the chain does not have."""
    roles = chain if isinstance(chain, list) else []
    out: dict[str, Any] = {}
    for key, value in values.items():
        if key == "roles":
            out[key] = {role: below for role, below in value.items() if role in roles}
        else:
            out[key] = _for_chain(value, chain) if isinstance(value, Mapping) else value
    return out


# ---- as YAML, and compared ----


def dump(config: Config) -> str:
    """The resolved config as YAML that `--config` reads back; `run` is left out."""
    return yaml_text(_plain(config))


def differences(a: Section, b: Section) -> list[str]:
    """Dotted keys whose values differ; `run` is not compared."""
    left, right = flat(a), flat(b)
    keys = [*left, *(key for key in right if key not in left)]
    return [key for key in keys if left.get(key) != right.get(key)]


def flat(config: Section) -> dict[str, Any]:
    """Every setting by its dotted key; `run` is left out."""
    return dict(_flat(_plain(config)))


def _plain(config: Section) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"run"})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
