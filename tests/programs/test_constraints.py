"""constraints.txt pins whatever an install of the package brings with it."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = Path(__file__).parents[2] / "constraints.txt"
OF_TORCH = ("nvidia-", "cuda-")  # which its CUDA builds pin themselves


def needed(name: str, extras: Iterable[str], found: dict[str, set[str]]) -> dict[str, set[str]]:
    """Every package below `name`, with the extras that are asked of it."""
    try:
        below = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:  # not for this machine
        return found
    asked = [{"extra": extra} for extra in ("", *extras)]
    for one in below:
        if one.marker is not None and not any(map(one.marker.evaluate, asked)):
            continue
        package = canonicalize_name(one.name)
        known = found.get(package)
        if known is None or not one.extras <= known:
            found[package] = (known or set()) | one.extras
            needed(package, one.extras, found)
    return found


def test_every_package_is_pinned() -> None:
    lines = [line.partition("#")[0].strip() for line in FILE.read_text().splitlines()]
    pins = {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines)
        if name
    }
    assert all(pins.values())
    found = needed("malt-fast", ["test", "bench", "ray", "qlora"], {})
    assert len(found) > 80
    assert not {name for name in found if not name.startswith(OF_TORCH)} - pins.keys()
