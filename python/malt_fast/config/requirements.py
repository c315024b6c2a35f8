"""Checks of what the settings need from this machine, before any work."""

from importlib.util import find_spec

from malt_fast.config.schema import Config
from malt_fast.utils import distributed
from malt_fast.utils.errors import MaltError
from malt_fast.utils.installing import install_command
from malt_fast.utils.ray_cluster import check_ray


def check_requirements(config: Config) -> None:
    """Raises MaltError for settings that exclude each other, and a missing package or folder."""
    settings = config.train
    for folder in config.reuse:
        if not (folder / "samples").is_dir():
            raise MaltError(f"reuse: {folder} holds no samples: name a run directory that does")
    if settings.side_by_side and settings.regenerate == "sequential":
        raise MaltError(
            "train.side_by_side excludes train.regenerate = sequential, in which each role waits "
            "for the one before: choose one"
        )
    if settings.side_by_side and distributed.process_count() > 1:
        raise MaltError(
            "train.side_by_side starts its own processes: run it with python, not with a launcher"
        )
    if settings.side_by_side:
        check_ray()
    if settings.load_in_4bit and find_spec("bitsandbytes") is None:
        raise MaltError(
            "train.load_in_4bit needs bitsandbytes, which is not installed: "
            f"{install_command('qlora')}"
        )
