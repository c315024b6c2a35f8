"""How a program ends: its exit status, and one line for a user's mistake."""

import errno
import io
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError, first_line, one_line
from malt_fast.utils.quiet import silence_bitsandbytes

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}


def exit_status(program: Callable[[], object]) -> int:
    """Run a program; a user's mistake, or a failing disk, is one line on stderr and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no character may end a run
    silence_bitsandbytes()
    try:
        with interrupt.two_steps():
            program()
    except MaltError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 2
    except OSError as error:
        file, reason = _file_of(error)
        if file is None and error.errno not in FULL:  # a connection's, for example
            raise
        where = "a file" if file is None else str(file)
        where = where if error.errno != errno.ENAMETOOLONG else f"...{where[-60:]}"
        todo = "check what is there, its rights and the disk, then run the same command again"
        print(one_line(f"error: {where} cannot be used ({reason}): {todo}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        how = [f"to continue, run {_command(folder)}" for folder in stop.args]
        print(": ".join(["stopped", *how]), file=sys.stderr)
        return 130
    return 0


def show(text: str) -> None:
    """Print help, or another text of which a reader such as `head` may take only a part."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def _file_of(error: OSError) -> tuple[str | None, str]:
    """The file that an error is about, and what is wrong with it."""
    if isinstance(error, shutil.Error):  # (from, to, why) of every file that was not copied
        file, _, why = error.args[0][0]
        return file, why.partition("] ")[2].partition(": ")[0] or why
    return error.filename2 or error.filename, first_line(error)  # of a rename, the target


def _command(folder: Path) -> str:
    """The command that is running, with its run directory."""
    words = sys.argv[1:]
    if not any(word == "--run" or word.startswith("--run=") for word in words):
        words += ["--run", str(folder)]
    module = sys.modules["__main__"].__spec__
    program = ["python", sys.argv[0]]
    if module:
        program = ["python", "-m", module.name.removesuffix(".__main__")]
    return f"`{shlex.join([*program, *words])}`"
