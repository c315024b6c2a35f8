"""Decides which of several engines samples which tree.

A tree stays with the engine that began it, whose cache holds its prefixes. An engine with room
takes requests of its own trees, oldest tree first; then the oldest tree that no engine has begun;
then, so that none is idle while another has a queue, the oldest waiting tree of the longest queue.
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from malt_fast.engines import Request

Entry = tuple[int, int, Request]  # (priority, order of arrival, request)


class Router:
    """Requests that wait, by the engine that will get them."""

    def __init__(self, engines: int) -> None:
        self.queues: list[list[Entry]] = [[] for _ in range(engines)]  # heaps
        self.fresh: dict[str, list[Request]] = {}  # of trees without an engine, in order of arrival
        self.order: deque[str] = deque()  # their questions, oldest first
        self.home: dict[str, int] = {}  # question -> engine
        self.unsettled: Counter[str] = Counter()  # requests of a question, waiting or running
        self.quiet: set[str] = set()  # questions without unsettled requests, unless more have come
        self.arrived = 0

    @property
    def pending(self) -> int:
        return self.unsettled.total()

    def add(self, requests: Iterable[Request]) -> None:
        """Let new requests wait."""
        for request in requests:
            self.unsettled[request.question] += 1
            self._wait(request)

    def again(self, requests: Iterable[Request]) -> None:
        """Let requests wait that an engine took and lost."""
        for request in requests:
            self._wait(request)

    def settle(self, requests: Iterable[Request]) -> None:
        """Note answered requests. A tree with none left may still get children at once."""
        for request in requests:
            self.unsettled[request.question] -= 1
            if not self.unsettled[request.question]:
                self.quiet.add(request.question)

    def take(self, engine: int, room: int) -> list[Request]:
        """Up to `room` requests for `engine` to run now."""
        self._forget()
        queue = self.queues[engine]
        taken: list[Request] = []
        while len(taken) < room and (queue or self._adopt(engine)):
            taken.append(heapq.heappop(queue)[-1])
        return taken

    def _wait(self, request: Request) -> None:
        engine = self.home.get(request.question)
        if engine is not None:
            self._push(engine, request)
            return
        if request.question not in self.fresh:
            self.order.append(request.question)
        self.fresh.setdefault(request.question, []).append(request)

    def _push(self, engine: int, request: Request) -> None:
        self.arrived += 1
        heapq.heappush(self.queues[engine], (request.priority, self.arrived, request))

    def _adopt(self, engine: int) -> bool:
        """Give `engine` another tree; returns whether there was one."""
        if self.order:
            question = self.order.popleft()
            requests: Sequence[Request] = self.fresh.pop(question)
        else:
            longest = max(self.queues, key=len)
            if not longest:
                return False
            question = longest[0][-1].question
            requests = [entry[-1] for entry in longest if entry[-1].question == question]
            longest[:] = [entry for entry in longest if entry[-1].question != question]
            heapq.heapify(longest)
        self.home[question] = engine
        for request in requests:
            self._push(engine, request)
        return True

    def _forget(self) -> None:
        """Forget trees that got no more requests: they are finished."""
        for question in self.quiet:
            if not self.unsettled[question]:
                del self.unsettled[question]
                self.home.pop(question, None)
        self.quiet.clear()
