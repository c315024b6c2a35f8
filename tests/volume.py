"""How much the randomised tests try: little for every change, all of it for `make test-slow`."""

from hypothesis import settings

NIGHTLY = settings.get_current_profile_name() == "nightly"


def volume(count: int) -> int:
    """How many cases to try of `count`: in the "nightly" profile all, else about a fifth."""
    return count if NIGHTLY else min(count, max(20, count // 5))
