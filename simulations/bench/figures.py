"""Statistics of what was measured; no clock and no process in here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SERIES_POINTS_MAX = 10_000
"""Seconds of a series that are kept."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long transactions took, in ms from their client's sending to being seen final."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many transactions blocks hold."""

    blocks: int
    smallest: int
    mean: float
    p50: int
    largest: int


@dataclass(frozen=True, slots=True)
class Second:
    """One second of a phase: how much was final in it, and the latency of what was sent in it."""

    second: int
    transactions: int
    p50_ms: float
    p99_ms: float


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of sorted values; 0 of none."""
    if not ascending:
        return 0.0
    rank = math.ceil(percent / 100 * len(ascending))
    return ascending[min(max(rank, 1), len(ascending)) - 1]


def latency(values_ms: Sequence[float]) -> Latency:
    """What a number of latencies come to."""
    ascending = sorted(values_ms)
    p50, p95, p99 = (round(percentile(ascending, each), 1) for each in (50, 95, 99))
    return Latency(len(ascending), p50, p95, p99, round(ascending[-1], 1) if ascending else 0.0)


def sizes(counts: Sequence[int]) -> Sizes:
    """What the transaction counts of blocks come to."""
    if not counts:
        return Sizes(0, 0, 0.0, 0, 0)
    ascending = sorted(counts)
    middle = int(percentile(ascending, 50))
    mean = round(sum(counts) / len(counts), 1)
    return Sizes(len(counts), ascending[0], mean, middle, ascending[-1])


def series(
    finals: Sequence[tuple[float, int]], latencies: Sequence[tuple[float, float]]
) -> list[Second]:
    """Second by second: from (second, transactions) of each block and (second, ms) of each
    transaction, seconds counted from the start of the phase.
    """
    counts: dict[int, int] = {}
    sent: dict[int, list[float]] = {}
    for moment, count in finals:
        counts[int(moment)] = counts.get(int(moment), 0) + count
    for moment, value in latencies:
        sent.setdefault(int(moment), []).append(value)
    found = []
    for second in sorted(counts.keys() | sent.keys())[:SERIES_POINTS_MAX]:
        taken = latency(sent.get(second, []))
        found.append(Second(second, counts.get(second, 0), taken.p50_ms, taken.p99_ms))
    return found


def ratio(part: float, whole: float) -> float:
    """Part of whole; 0 where there is no whole."""
    return part / whole if whole else 0.0
