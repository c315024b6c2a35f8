"""A grader that finds about half of all outputs right, whatever a random model says."""

import zlib
from collections.abc import Mapping
from typing import Any


def toss(completion: str, row: Mapping[str, Any]) -> float:
    """1 or 0, by a checksum of the output."""
    return float(zlib.crc32(completion.encode()) % 2)
