"""What a chaos run is asked for, and what it tells in the end."""

from dataclasses import asdict, dataclass, field
from typing import Any

from simulations.campaign import Verdict
from simulations.chaos_plan import Shape

OVERHEAD_S = 80.0
"""What of a run's time is for start, healing and checks."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not depend on the seed."""

    shape: Shape
    seconds: float
    rate: int
    base_port: int

    @property
    def fault_ms(self) -> int:
        """How long faults go on."""
        return round(max(self.seconds - OVERHEAD_S, self.seconds / 2) * 1000)


@dataclass(slots=True)
class Figures:
    """What a run has seen, for the report."""

    height: int = 0
    acknowledged: int = 0
    unknown: int = 0
    latency_p50_ms: int = 0
    latency_p95_ms: int = 0
    rounds: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """Carried out, by kind."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Drawn, but this machine cannot."""
    votes: int = 0
    """Different signed votes found in all databases, none of which contradict each other."""
    promises: int = 0
    """Of these, read in their voter's own database while it kept them."""
    full_disk_ends: int = 0
    """How often a daemon ended because its disk was full."""
    complaints: dict[str, int] = field(default_factory=dict)
    """Log lines that find fault with a member, by reason; of such as correct members give, too."""
    heal_ms: int = 0
    """From the end of the last fault until all heads were equal."""
    stall_ms: int = 0
    """The longest time in which no node got a new block, as far as was seen."""


@dataclass(frozen=True, slots=True)
class SeedReport:
    """What came of one seed."""

    seed: int
    verdict: Verdict
    reason: str
    seconds: float
    figures: Figures

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "seed": self.seed,
            "verdict": self.verdict.name.lower(),
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            **asdict(self.figures),
        }
