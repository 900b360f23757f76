"""The whole line between the replica and the world: events in, effects out.

docs/ARCHITECTURE.md section 2. Effects are performed in the order given, and a Persist is durable
before anything after it leaves the node.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from consensus.committee import Committee
from consensus.evidence import Evidence, Statement
from consensus.messages import Certificate, Decision, Signed
from primitives.block import Block, BlockHeader

# ---- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A consensus message came from the voter that signed it; nothing else about it has been
    checked yet. Messages are not relayed: what somebody else signed belongs into a certificate.
    """

    signed: Signed


@dataclass(frozen=True, slots=True)
class Proposed:
    """The answer to WantBlock: a fresh block on our head, executed and complete here."""

    block: Block


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to Fetch: the block is here with all its batches and is valid on our head.

    An invalid block is never answered: the view then times out.
    """

    block: Block


@dataclass(frozen=True, slots=True)
class Pending:
    """Transactions (or a due heartbeat) wait to be ordered at this height."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """The primary leaves out a batch for longer than `censorship_heights`: leave its view."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Messages can be exchanged with this peer from now on; what we said before, it may lack."""

    peer: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Messages can no longer be exchanged with this peer."""

    peer: str


@dataclass(frozen=True, slots=True)
class Idle:
    """What waited to be ordered is gone, expired or refused: stop changing views for nothing."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A peer passes on what a voter told it at a height; nothing about it has been checked."""

    peer: str
    height: int
    signer: str
    statement: Statement


@dataclass(frozen=True, slots=True)
class Expired:
    """`deadline` has come."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """A block was applied, decided here or synced: go on to the height above it.

    `committee` is that of the new height. If work waits there, say Pending again.
    """

    head: BlockHeader
    committee: Committee


Event = (
    Received
    | Proposed
    | Fetched
    | Pending
    | Suspect
    | Connected
    | Disconnected
    | Idle
    | Heard
    | Expired
    | Advanced
)

# ---- effects -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Make our own signed message durable.

    A COMMIT comes with the prepared certificate that it rests on. A PREPARE comes with its block,
    whose batches are then durable in the same transaction; so does the COMMIT of a voter that
    learnt of the block from a quorum of PREPAREs and sent none itself.
    """

    signed: Signed
    prepared: Certificate | None
    block: Block | None


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to every other voter."""

    signed: Signed


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one voter."""

    to: str
    signed: Signed


@dataclass(frozen=True, slots=True)
class WantBlock:
    """We are primary and work waits: build a block on our head with header.view == `view`.

    The answer is Proposed, or nothing if there is nothing to order; the next Pending asks again.
    """

    height: int
    view: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get the block of this hash with its batches, check it fully, answer Fetched.

    `block` is what the primary sent, or None when only the hash is known; its payload may be false
    although its header is right. `holders` are other voters who say that they have the block; our
    own store comes first. `fresh` asks for the check of the wall clock as well, which is right only
    for a block that no quorum has prepared. The same block may be asked for again: with `fresh`
    False once a quorum vouches for it, and every `resend_ms`.
    """

    block_hash: bytes
    block: Block | None
    fresh: bool
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Serve:
    """This voter asks about a height that is decided: send it that Decision."""

    to: str
    height: int


@dataclass(frozen=True, slots=True)
class Decide:
    """The block is final. Apply it and answer Advanced."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class PassOn:
    """Tell every other voter what this one has said: somebody has told others something else."""

    height: int
    signer: str
    statement: Statement


@dataclass(frozen=True, slots=True)
class Accuse:
    """Two statements of one voter that contradict each other, both signatures checked."""

    evidence: Evidence


Misdeed = Literal[
    "unknown_signer",
    "bad_signature",
    "not_primary",
    "bad_certificate",
    "bad_proposal",
    "equivocation",
    "future_height",
    "checks_exceeded",
    "testimony_false",
]
"""Why a message was dropped that a correct voter would not have sent, or not so many of them: a
voter that is ahead of us, or behind in what it knows of the committee, is meant by the exceptions,
"future_height" and "unknown_signer".
"""
MISDEEDS: Final[Mapping[str, Misdeed]] = MappingProxyType(
    {misdeed: misdeed for misdeed in get_args(Misdeed)}
)


@dataclass(frozen=True, slots=True)
class Blame:
    """A message was dropped for what its signer did. Whoever brought the message here has made sure
    that the signer itself sent it: without a look at the signature nothing else shows that.
    """

    signer: str
    reason: Misdeed


Effect = Persist | Broadcast | Send | WantBlock | Fetch | Serve | Decide | PassOn | Accuse | Blame
