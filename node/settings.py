"""What an operator may not set, but tests do: the patience and bounds of the node's decisions."""

from dataclasses import dataclass, field

from node.mempool import MempoolLimits
from node.spreading import SpreadSettings


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """The node's own patience and bounds; nothing here changes what is valid."""

    fetch_patience_ms: int = 100
    fetch_retry_ms: int = 500
    sync_patience_ms: int = 500
    follow_patience_ms: int = 200
    """How long a member without a vote waits to be told of a decided block before it asks."""
    penalty_ms_min: int = 5_000
    """How long a peer that gave no answer, or lied for the first time, is not asked again."""
    penalty_ms_max: int = 160_000
    """The same for a peer that lied many times in a row."""
    stubborn: bool = False
    """Vote on although our key has signed what we have not: what a simulated liar does."""
    draft_work_min: int = 300
    """Units of work (`block_work_max`) of a block from which on the voters are told beforehand what
    it will list: some 2 ms of execution."""
    spread: SpreadSettings = field(default_factory=SpreadSettings)
    mempool: MempoolLimits = field(default_factory=MempoolLimits)
