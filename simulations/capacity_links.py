"""Links between institutions, by name: how long a message is under way, and how fast it leaves."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Links:
    """Latency is one way, in microseconds; a tenth or so comes on top, exponentially distributed.

    `near` holds within a region, `far` across regions.
    """

    meaning: str
    near_us: int
    far_us: int
    jitter_us: int
    """The mean of what comes on top."""
    bits_per_second: int
    """Of each institution's uplink, which it has for all of its peers together."""

    def latency_us(self, across: bool, chance: random.Random) -> int:
        """How long one message is under way once it has left."""
        least = self.far_us if across else self.near_us
        return least + int(chance.expovariate(1 / self.jitter_us))

    def leaving_us(self, size_bytes: int) -> int:
        """How long the uplink is busy with so many bytes."""
        return size_bytes * 8_000_000 // self.bits_per_second

    def describe(self) -> str:
        """One line for people."""
        latency = f"{self.near_us / 1_000:g}"
        if self.far_us != self.near_us:
            latency += f" to {self.far_us / 1_000:g}"
        return f"{self.meaning}: {latency} ms, {self.bits_per_second // 1_000_000} Mbit/s"


LINKS: Final[Mapping[str, Links]] = MappingProxyType(
    {
        "machine": Links("all on one machine, loopback", 30, 30, 10, 20_000_000_000),
        "campus": Links("one campus", 300, 300, 30, 1_000_000_000),
        "province": Links("one province", 8_000, 8_000, 800, 100_000_000),
        "greater-bay": Links(
            "the Greater Bay Area, across its borders", 5_000, 15_000, 1_000, 100_000_000
        ),
        "continental": Links("one continent", 40_000, 40_000, 4_000, 50_000_000),
    }
)
"""By the name that `--link` takes."""
