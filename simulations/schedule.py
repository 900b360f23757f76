"""Virtual time: what happens next, in integer milliseconds from the start of the run."""

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Schedule:
    """Actions by time; those of one millisecond run in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0
        self._planned: list[tuple[int, int, Action]] = []
        self._count = 0

    def at(self, time: int, action: Action) -> None:
        """Run `action` at `time`, or as soon as possible if that has passed."""
        self._count += 1
        heapq.heappush(self._planned, (max(time, self.now), self._count, action))

    def after(self, delay_ms: int, action: Action) -> None:
        """Run `action` when `delay_ms` have passed."""
        self.at(self.now + delay_ms, action)

    def run(self, until: int, done: Callable[[], bool]) -> bool:
        """Run until `done`, asked once per millisecond in which something happened, or until the
        time `until`; whether it was done.
        """
        planned = self._planned
        while planned:
            time = planned[0][0]
            if time > self.now and done():
                return True
            if time > until:
                break
            self.now = time
            while planned and planned[0][0] == time:
                heapq.heappop(planned)[2]()
        self.now = max(self.now, until) if not done() else self.now
        return done()
