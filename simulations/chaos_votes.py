"""Every signed vote that a run leaves behind, from all databases, and whether any two contradict.

A database holds its own node's promises of the undecided height only, so they are read again and
again while the run goes on, and at every kill, pause and stop. Promises carry other voters'
signatures (prepared certificates, justifications), and every block carries its commit certificate,
which differs from node to node: a vote that its signer has forgotten is still there in others.

What must hold, in whatever order votes are found: per voter, height, view and phase one value; a
primary prepares what it proposed; and a VIEW-CHANGE claims at least what its signer had committed
to in a view below. The simulator's PromiseBook judges each database's own promises as well, in the
order in which they were made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from consensus.messages import (
    Certificate,
    Commit,
    Phase,
    Prepare,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChange,
    claim_of,
    phase_of,
)
from primitives.codec import decode
from simulations.checkers import PromiseBook, Violation


@dataclass(frozen=True, slots=True)
class Vote:
    """One signature: who says what. A VIEW-CHANGE says a claim, all others a block's hash."""

    voter: str
    height: int
    view: int
    phase: Phase
    value: bytes | PreparedClaim | None

    def text(self) -> str:
        """In words."""
        match self.value:
            case None:
                value = "nothing"
            case PreparedClaim(view, block_hash):
                value = f"block {block_hash.hex()[:16]} of view {view}"
            case bytes():
                value = f"block {self.value.hex()[:16]}"
        return f"{self.phase.name} at height {self.height}, view {self.view} for {value}"


def votes_in(signed: Signed) -> Iterator[Vote]:
    """The votes in a promise: its own, and those that it passes on."""
    message = signed.message
    phase, value = phase_of(message), _value(signed)
    yield Vote(signed.signer, message.height, message.view, phase, value)
    if isinstance(message, PrePrepare) and message.justification is not None:
        for entry in message.justification.view_changes:
            yield Vote(
                entry.signer, message.height, message.view, Phase.VIEW_CHANGE, entry.prepared
            )
        yield from votes_of(message.justification.prepared)
    if isinstance(message, ViewChange):
        yield from votes_of(message.prepared)


def votes_of(certificate: Certificate | None) -> Iterator[Vote]:
    """The votes in a certificate."""
    if certificate is not None:
        for entry in certificate.signatures:
            yield Vote(
                entry.signer,
                certificate.height,
                certificate.view,
                Phase(certificate.phase),
                certificate.block_hash,
            )


def _value(signed: Signed) -> bytes | PreparedClaim | None:
    match signed.message:
        case PrePrepare(_, _, block):
            return block.hash
        case Prepare(_, _, block_hash) | Commit(_, _, block_hash):
            return block_hash
        case ViewChange(_, _, prepared):
            return claim_of(prepared)


class Ballots:
    """All votes found so far."""

    def __init__(self) -> None:
        self._votes: dict[tuple[str, int, int, Phase], Vote] = {}
        self._by_height: dict[tuple[str, int], list[Vote]] = {}
        self._books: dict[str, PromiseBook] = {}
        self._promises: dict[tuple[str, bytes], None] = {}

    @property
    def count(self) -> int:
        """How many different votes there are."""
        return len(self._votes)

    @property
    def promises(self) -> int:
        """How many of them were read in their own voter's database, before it dropped them."""
        return len(self._promises)

    def add_promise(self, owner: str, raw: bytes, prepared: bytes | None) -> None:
        """A row of a database's promises, in order. Raises Violation."""
        if (owner, raw) in self._promises:
            return
        self._promises[owner, raw] = None
        signed = decode(raw, Signed, bytes_max=len(raw))
        if signed.signer != owner:
            raise Violation(f"the database of {owner} holds a promise of {signed.signer}")
        self._books.setdefault(owner, PromiseBook(owner)).add(signed)
        for vote in votes_in(signed):
            self.add(vote)
        if prepared is not None:
            self.add_certificate(decode(prepared, Certificate, bytes_max=len(prepared)))

    def add_certificate(self, certificate: Certificate) -> None:
        """A certificate of a promise or block. Raises Violation."""
        for vote in votes_of(certificate):
            self.add(vote)

    def add(self, vote: Vote) -> None:
        """One vote. Raises Violation if it contradicts another one of its voter."""
        place = (vote.voter, vote.height, vote.view, vote.phase)
        earlier = self._votes.get(place)
        if earlier == vote:
            return
        if earlier is not None:
            raise Violation(f"{vote.voter} signed {earlier.text()} and {vote.text()}")
        others = self._by_height.setdefault((vote.voter, vote.height), [])
        for other in others:
            if _contradict(vote, other) or _contradict(other, vote):
                raise Violation(f"{vote.voter} signed {other.text()} and {vote.text()}")
        self._votes[place] = vote
        others.append(vote)


def _contradict(one: Vote, other: Vote) -> bool:
    """Whether a voter that keeps the rules cannot have signed both, at one height."""
    if one.phase is Phase.PRE_PREPARE and other.phase is Phase.PREPARE:
        return one.view == other.view and one.value != other.value
    if one.phase is Phase.COMMIT and other.phase is Phase.VIEW_CHANGE and one.view < other.view:
        claim = other.value
        if not isinstance(claim, PreparedClaim) or claim.view < one.view:
            return True
        return claim.view == one.view and claim.block_hash != one.value
    return False


def read_promises(ballots: Ballots, owner: str, rows: Iterable[Mapping[str, str | None]]) -> None:
    """Add the promises of a dump (storage/dump.py). Raises Violation."""
    for row in rows:
        prepared = row["prepared"]
        certificate = None if prepared is None else bytes.fromhex(prepared)
        ballots.add_promise(owner, bytes.fromhex(row["signed"] or ""), certificate)
