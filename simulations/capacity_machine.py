"""Processors and disks in virtual time, all in microseconds.

A job runs to its end on one core once that is free; who waits longest is next. So the cores' time
is never handed out twice, whoever shares them: one node its two cores, or many nodes one machine.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from simulations.schedule import Schedule

SLICE_US = 4_000
"""For so long a thread keeps a core that others wait for."""

Started = Callable[[], int]
"""Begins a job when a core is free for it; returns for how many microseconds it takes the core."""
Ended = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Job:
    """Work for one core; `ended` is called when it is done."""

    start: Started
    ended: Ended


class Processor:
    """`cores` cores, and what waits for them."""

    def __init__(self, schedule: Schedule, cores: int) -> None:
        if cores < 1:
            raise ValueError("a processor has at least one core")
        self.cores = cores
        self.busy_us = 0
        """What the cores have worked, or are bound to work, since the start."""
        self._schedule = schedule
        self._free = cores
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Run a job as soon as a core is free and all that came before has begun."""
        self._waiting.append(job)
        self._begin()

    def _begin(self) -> None:
        while self._free and self._waiting:
            job = self._waiting.popleft()
            self._free -= 1
            duration = job.start()
            self.busy_us += duration

            def end(job: Job = job) -> None:
                self._free += 1
                job.ended()
                self._begin()

            self._schedule.after(duration, end)


class Lane:
    """A queue of jobs of which at most `width` run at once, such as one thread or a pool of two.

    A long job lets others have the core after every SLICE_US, as an operating system does.
    """

    def __init__(self, processor: Processor, width: int) -> None:
        self._processor = processor
        self._room = width
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Run a job when its turn comes."""
        self._waiting.append(job)
        self._hand_over()

    def _hand_over(self) -> None:
        while self._room and self._waiting:
            self._room -= 1
            _Run(self._processor, self._waiting.popleft(), self._finished).next_slice()

    def _finished(self) -> None:
        self._room += 1
        self._hand_over()


class _Run:
    """A job of a lane on its way through the processor."""

    def __init__(self, processor: Processor, job: Job, finished: Ended) -> None:
        self._processor = processor
        self._job = job
        self._finished = finished
        self._left_us: int | None = None

    def next_slice(self) -> None:
        self._processor.submit(Job(self._start, self._end))

    def _start(self) -> int:
        left_us = self._job.start() if self._left_us is None else self._left_us
        slice_us = min(left_us, SLICE_US)
        self._left_us = left_us - slice_us
        return slice_us

    def _end(self) -> None:
        if self._left_us:
            self.next_slice()
        else:
            self._job.ended()
            self._finished()
