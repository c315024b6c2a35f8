"""Figures about the server in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)  # seconds


class Metrics:
    """Counts requests below /v1 and times those that were answered."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()  # by status
        self.answered = [0] * (len(BUCKETS) + 1)  # by time, up to each bucket; the last: longer
        self.seconds = 0.0

    def answer(self, seconds: float) -> None:
        """Note a question that was answered."""
        self.answered[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def text(self, *, running: int, waiting: int, tokens: int) -> str:
        """running: questions that the roles work on; waiting: accepted, not begun; tokens:
        sampled so far."""
        statuses = {f'{{status="{status}"}}': n for status, n in sorted(self.requests.items())}
        lines = [
            *_family("malt_requests_total", "counter", "requests by status", statuses),
            *_family("malt_questions_running", "gauge", "questions at work", {"": running}),
            *_family("malt_questions_waiting", "gauge", "questions not begun", {"": waiting}),
            *_family("malt_generated_tokens_total", "counter", "tokens sampled", {"": tokens}),
            *self._histogram("malt_answer_seconds", "time from request to answer"),
        ]
        return "".join(f"{line}\n" for line in lines)

    def _histogram(self, name: str, about: str) -> Iterator[str]:
        values: dict[str, float] = {}
        total = 0
        for bound, n in zip([*map(str, BUCKETS), "+Inf"], self.answered, strict=True):
            total += n
            values[f'_bucket{{le="{bound}"}}'] = total
        values |= {"_sum": round(self.seconds, 6), "_count": total}
        return _family(name, "histogram", about, values)


def _family(name: str, kind: str, about: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for suffix, value in values.items():
        yield f"{name}{suffix} {value}"
