"""Shell completion: `malt-fast completion bash` prints a script that the shell reads.

    bash    source <(malt-fast completion bash)                 in ~/.bashrc
    zsh     source <(malt-fast completion zsh)                  in ~/.zshrc, after compinit
    fish    malt-fast completion fish > ~/.config/fish/completions/malt-fast.fish

The script holds all commands, settings and choices, so that no Python starts when Tab is pressed.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from malt_fast.config.help import PROGRAMS
from malt_fast.config.mistakes import settings
from malt_fast.config.schema import Config
from malt_fast.utils.errors import MaltError, nearest
from malt_fast.utils.program import exit_status

SHELLS = ("bash", "zsh", "fish")
FOLDERS = {"run", "reuse", "out"}
FILES = {"config", "task.path", "task.test_path", "model.name_or_path"}


@dataclass(frozen=True)
class Option:
    """What may follow a command, and what may follow that."""

    name: str  # without the dashes
    about: str = ""
    takes: Literal["choices", "file", "folder", "text", "nothing"] = "text"
    choices: tuple[str, ...] = ()


def options_of(command: str) -> list[Option]:
    """Of a command: its settings, or what its parser takes."""
    program = f"malt_fast.{command}"
    if program not in PROGRAMS:
        parser = getattr(import_module(program), "parser", None)
        return list(_of_parser(parser())) if parser is not None else []
    more = [Option("config", "settings in a YAML file", "file"), Option("help", "", "text")]
    if command == "evaluate":
        more.append(Option("suite", "tables", "choices", ("standard", "paper")))
    if command == "sweep":
        more.append(Option("sweep", "KEY=V1,V2: a setting and its values"))
    allowed = _may_change(command)
    kept = [s for s in settings(Config) if s[0] == "run" or s[0].startswith(allowed)]
    return more + [_of_setting(name, info.annotation, info.description) for name, info, _ in kept]


def _may_change(command: str) -> tuple[str, ...]:
    """How the settings begin that a command takes."""
    modules = dict.fromkeys(("evaluate", "sweep"), "malt_fast.runs.saved")
    module = (modules | {"serve": "malt_fast.serving.pipeline"}).get(command)
    allowed: tuple[str, ...] = import_module(module).MAY_CHANGE if module else ("",)
    return allowed


def _of_setting(name: str, kind: Any, about: str | None) -> Option:
    kinds = [kind, *get_args(kind)]
    if name in FOLDERS:
        return Option(name, about or "", "folder")
    if name in FILES or Path in kinds:
        return Option(name, about or "", "file")
    literal = next((k for k in kinds if get_origin(k) is Literal), None)
    choices = get_args(literal) or (("true", "false") if bool in kinds else ())
    return Option(name, about or "", "choices" if choices else "text", tuple(map(str, choices)))


def _of_parser(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        for name in action.option_strings:
            if not name.startswith("--"):
                continue
            takes: Any = "nothing" if action.nargs == 0 else "text"
            if action.type is Path:
                takes = "folder"
            about = "" if action.help == argparse.SUPPRESS else action.help or ""
            yield Option(name.removeprefix("--"), about, takes)


# ---- scripts ----


def bash(options: dict[str, list[Option]]) -> str:
    """One function over COMP_WORDS. A value written as --key=value is a word of its own, too."""
    lines = [
        "_malt_fast() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"',
        '  [ "$cur" = "=" ] && cur=""',
        '  [ "$prev" = "=" ] && prev="${COMP_WORDS[COMP_CWORD-2]}"',
        "  COMPREPLY=()",
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f'    COMPREPLY=($(compgen -W "{" ".join([*options, "--help", "--version"])}" -- "$cur"))',
        "    return",
        "  fi",
        '  case "${COMP_WORDS[1]} $prev" in',
    ]
    for command, known in options.items():
        for how, reply in (("folder", "compgen -d"), ("file", "compgen -f")):
            names = "|".join(f'"{command} --{o.name}"' for o in known if o.takes == how)
            if names:
                call = f'COMPREPLY=($({reply} -- "$cur"))'
                lines.append(f"    {names}) compopt -o filenames 2>/dev/null; {call}; return ;;")
        for o in known:
            if o.takes == "choices":
                call = f'COMPREPLY=($(compgen -W "{" ".join(o.choices)}" -- "$cur"))'
                lines.append(f'    "{command} --{o.name}") {call}; return ;;')
        names = "|".join(f'"{command} --{o.name}"' for o in known if o.takes == "text")
        if names:
            lines.append(f"    {names}) return ;;")
    lines += ["  esac", '  case "${COMP_WORDS[1]}" in']
    for command, known in options.items():
        words = " ".join(f"--{o.name}" for o in known) or " ".join(SHELLS)
        lines.append(f'    {command}) COMPREPLY=($(compgen -W "{words}" -- "$cur")) ;;')
    lines += ["  esac", "}", "complete -F _malt_fast malt-fast"]
    return "\n".join(lines)


def zsh(options: dict[str, list[Option]]) -> str:
    """zsh runs what bash does."""
    return "autoload -U +X bashcompinit && bashcompinit\n" + bash(options)


def fish(options: dict[str, list[Option]]) -> str:
    lines = ["complete -c malt-fast -f"]
    from malt_fast.__main__ import COMMANDS

    for command in options:
        about = shlex.quote(COMMANDS.get(command, "a script for bash, zsh or fish"))
        lines.append(f"complete -c malt-fast -n __fish_use_subcommand -a {command} -d {about}")
    lines.append(
        f"complete -c malt-fast -n '__fish_seen_subcommand_from completion' -a '{' '.join(SHELLS)}'"
    )
    how = {"file": " -rF", "folder": " -xa '(__fish_complete_directories)'", "text": " -x"}
    for command, known in options.items():
        begin = f"complete -c malt-fast -n '__fish_seen_subcommand_from {command}'"
        for o in known:
            after = f" -xa '{' '.join(o.choices)}'" if o.choices else how.get(o.takes, "")
            about = o.about.replace("\\", "\\\\").replace("'", "\\'")
            lines.append(f"{begin} -l {o.name} -d '{about}'{after}")
    return "\n".join(lines)


def script(shell: str) -> str:
    """Raises MaltError for a shell that is not known."""
    from malt_fast.__main__ import commands

    if shell not in SHELLS:
        raise MaltError(f"there is no completion for '{shell}': {nearest(shell, SHELLS)}")
    options = {name: options_of(name) for name in commands() if name != "completion"}
    return {"bash": bash, "zsh": zsh, "fish": fish}[shell]({**options, "completion": []})


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if words in (["-h"], ["--help"]):
        print(f"usage: python -m malt_fast.completion {'|'.join(SHELLS)}\n\n{__doc__.strip()}")
        raise SystemExit(0)
    return exit_status(lambda: print(script(words[0] if len(words) == 1 else " ".join(words))))


if __name__ == "__main__":
    sys.exit(main())
