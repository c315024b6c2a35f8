"""Settings from the task's defaults, YAML files and the command line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from malt_fast.config.arguments import lookup, merge, parse_arguments
from malt_fast.config.mistakes import sentence
from malt_fast.config.rules import check
from malt_fast.config.schema import PACKAGE, Config, TaskConfig
from malt_fast.config.sections import split
from malt_fast.config.yaml_files import read_yaml as read_yaml
from malt_fast.config.yaml_files import yaml_text
from malt_fast.utils.errors import MaltError


def load_config(argv: Sequence[str], program: str) -> Config:
    """The config of a command line. `--help` is printed, and exits."""
    values, wants_help = parse_arguments(argv)
    name = lookup(values, ("task", "name"), "arithmetic")
    chain = split(lookup(values, ("chain",), Config.model_fields["chain"].default))
    values = merge(for_chain(task_defaults(str(name)), chain), values)
    if wants_help is not None:
        from malt_fast.config.help import help_text

        print(help_text(Config, program, values, wants_help))
        raise SystemExit(0)
    return make_config(values)


def make_config(values: Mapping[str, Any]) -> Config:
    """A validated config from nested values; raises MaltError for the first mistake."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise MaltError(sentence(Config, error)) from None
    check(config)
    return config


def for_chain(values: Mapping[str, Any], chain: object) -> dict[str, Any]:
    """`values` without overrides for roles that the chain lacks: a task's defaults name its own."""
    roles = chain if isinstance(chain, list) else []
    out: dict[str, Any] = {}
    for key, value in values.items():
        if key == "roles":
            out[key] = {role: below for role, below in value.items() if role in roles}
        else:
            out[key] = for_chain(value, chain) if isinstance(value, Mapping) else value
    return out


def task_defaults(name: str) -> dict[str, Any]:
    """The `defaults:` of a task's YAML file; none for an unknown task."""
    known = get_args(TaskConfig.model_fields["name"].annotation)
    if name not in known:
        return {}
    defaults: dict[str, Any] = read_yaml(PACKAGE / "tasks" / f"{name}.yaml").get("defaults", {})
    return defaults


def dump(config: Config) -> str:
    """The resolved config as YAML that `--config` reads back; `run` is left out."""
    return yaml_text(_plain(config))


def differences(a: Config, b: Config) -> list[str]:
    """Dotted keys whose values differ; `run` is not compared."""
    left, right = flat(a), flat(b)
    keys = [*left, *(key for key in right if key not in left)]
    return [key for key in keys if left.get(key) != right.get(key)]


def flat(config: Config) -> dict[str, Any]:
    """Every setting by its dotted key; `run` is left out."""
    return dict(_flat(_plain(config)))


def _plain(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"run"})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
