"""Commands that install optional packages, for messages."""

import shlex
from functools import cache
from importlib.metadata import requires


@cache
def install_command(extra: str) -> str:
    """`pip install ...` of what pyproject.toml lists for an extra.

    It names the packages themselves: this works however malt-fast was installed.
    """
    lines = [line.partition(";") for line in requires("malt-fast") or []]
    wanted = [name.strip() for name, _, marker in lines if f'extra=="{extra}"' in _plain(marker)]
    return f"pip install {shlex.join(wanted)}"


def _plain(marker: str) -> str:
    return marker.replace(" ", "").replace("'", '"')
