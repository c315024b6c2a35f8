"""Shell completion: `malt-fast completion bash` prints a script that the shell reads.

    bash    source <(malt-fast completion bash)                 in ~/.bashrc
    zsh     source <(malt-fast completion zsh)                  in ~/.zshrc, after compinit
    fish    malt-fast completion fish > ~/.config/fish/completions/malt-fast.fish
    tcsh    malt-fast completion tcsh > FILE, and `source FILE` in ~/.tcshrc

The script holds all commands, settings and choices, so that no Python starts when Tab is pressed.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from malt_fast.__main__ import commands
from malt_fast.config.arguments import Program
from malt_fast.utils.errors import MaltError, nearest
from malt_fast.utils.exit_status import exit_status, show

SHELLS = ("bash", "zsh", "tcsh", "fish")
FOLDERS = {"run", "reuse", "out"}
FILES = {"task.path", "task.test_path", "model.name_or_path"}  # other values are possible too
# bash splits `--key=value` at `=`, which shtab does not expect.
EQUALS = """
_malt_fast() {
  local i words=()
  for ((i = 0; i <= COMP_CWORD; i++)); do
    [[ ${COMP_WORDS[i]} == "=" && $i -lt $COMP_CWORD ]] || words+=("${COMP_WORDS[i]#=}")
  done
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
  _shtab_malt_fast
}
complete -o bashdefault -F _malt_fast malt-fast
"""


def script(shell: str) -> str:
    """Raises MaltError for an unknown shell."""
    import shtab

    if shell not in SHELLS:
        raise MaltError(f"there is no completion for '{shell}': {nearest(shell, SHELLS)}")
    parser = argparse.ArgumentParser("malt-fast")
    parser.add_argument("--version", action="store_true", help="print the version")
    below = parser.add_subparsers()
    for command, about in commands().items():
        options = below.add_parser(command, help=about)
        if command == "completion":
            options.add_argument("shell", choices=SHELLS)
        else:
            _add_options(options, import_module(f"malt_fast.{command}").PROGRAM)
    text: str = shtab.complete(parser, shell)
    return text + EQUALS if shell == "bash" else text


def _add_options(parser: argparse.ArgumentParser, program: Program[Any]) -> None:
    """The options of a program, for shtab only: the program itself reads them elsewhere."""
    from shtab import DIR, FILE

    parser.add_argument("--config", help="YAML file of settings").complete = FILE  # type: ignore[attr-defined]
    for name, info, _ in program.options():
        kinds = [info.annotation, *get_args(info.annotation)]
        literal = next((kind for kind in kinds if get_origin(kind) is Literal), None)
        choices = get_args(literal) or (("true", "false") if bool in kinds else None)
        names = [name, *(short for short, full in program.short.items() if full == name)]
        about = (info.description or "").replace("%", "%%")
        action: Any = parser.add_argument(*(f"--{n}" for n in names), help=about, choices=choices)
        if name in FOLDERS:
            action.complete = DIR
        elif name in FILES or Path in kinds:
            action.complete = FILE


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if words in (["-h"], ["--help"]):
        usage = f"usage: python -m malt_fast.completion {'|'.join(SHELLS)}"
        show(f"{usage}\n\n{(__doc__ or '').strip()}")
        return 0
    return exit_status(lambda: show(script(" ".join(words))))


if __name__ == "__main__":
    sys.exit(main())
