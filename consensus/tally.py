"""Counting votes, apart from deciding what to do about them.

One Tally per height. It takes only messages whose signature has been verified, and its memory is
bounded whatever Byzantine voters send: of each voter it keeps VIEWS_KEPT_MAX PREPAREs and as many
COMMITs (those of the highest views), the VIEW-CHANGE for the highest view, and nothing else. As an
honest voter's views only ascend, this forgets nothing of it that still matters, and a Byzantine one
can displace only its own votes. Counts are kept per group as votes come, so that adding one costs
the same in a committee of 4 and of 200.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consensus.certificates import assemble
from consensus.committee import Committee, faulty_max
from consensus.messages import (
    Certificate,
    Commit,
    Phase,
    Prepare,
    Signed,
    ViewChange,
    claim_of,
    phase_of,
)

VIEWS_KEPT_MAX = 4
"""Votes kept of one voter in one phase, each of another view."""

Vote = Prepare | Commit


@dataclass(slots=True)
class _Count:
    """The votes for one (phase, view, block hash)."""

    missing: dict[str, int]
    """How many votes each group lacks for its quorum; at or below 0 when it has one."""
    groups_missing: int
    signatures: dict[str, bytes] = field(default_factory=dict)


class Tally:
    """All votes and view changes of one height."""

    def __init__(self, height: int, committee: Committee) -> None:
        self.height = height
        self._committee = committee
        self._votes: dict[tuple[Phase, str], dict[int, tuple[Signed, Vote]]] = {}
        self._counts: dict[tuple[Phase, int, bytes], _Count] = {}
        self._view_changes: dict[str, tuple[Signed, ViewChange]] = {}
        self._accused: dict[tuple[Phase, str], None] = {}
        self._heard: dict[str, None] = {}
        self.shared = False
        """Whether more than f voters of every group have sent something at this height."""
        self.prepared: Certificate | None = None
        """The prepared certificate of the highest view seen (a quorum of PREPAREs)."""
        self.committed: Certificate | None = None
        """The first commit certificate seen, of whichever view: what it names is decided."""
        self.certified = False
        """Whether some block is known to have been prepared by a quorum, in whichever view."""
        self.view_joined = 0
        """The largest view w such that more than f voters of every group ask for w or higher."""
        self.view_followed = 0
        """The largest view w such that a quorum of every group asks for w or higher."""

    # ---- before the signature is verified ----------------------------------------------------

    def refusal(self, signer: str, message: Vote | ViewChange) -> str | None:
        """Why this message cannot matter any more, for the counters; None if it may."""
        phase = phase_of(message)
        if isinstance(message, ViewChange):
            kept = self._view_changes.get(signer)
            if kept is None or message.view > kept[1].view:
                return None
            if message.view < kept[1].view:
                return "old_view"
            same = claim_of(kept[1].prepared) == claim_of(message.prepared)
        else:
            votes = self._votes.get((phase, signer), {})
            vote = votes.get(message.view)
            if vote is None:
                full = len(votes) >= VIEWS_KEPT_MAX and message.view < min(votes)
                return "old_view" if full else None
            same = vote[1].block_hash == message.block_hash
        if same:
            return "duplicate"
        return "equivocation" if (phase, signer) in self._accused else None

    # ---- after it ----------------------------------------------------------------------------

    def add(self, signed: Signed) -> bool:
        """Count a verified message that `refusal` let pass; whether it counts.

        It does not if the voter has said something else in the same place: see witness.py.
        """
        match signed.message:
            case ViewChange() as view_change:
                counts = self._add_view_change(signed, view_change)
            case Prepare() | Commit() as vote:
                counts = self._add_vote(signed, vote)
            case _:
                raise TypeError("a PRE-PREPARE is not counted")
        if not self.shared and signed.signer not in self._heard:
            self._heard[signed.signer] = None
            self.shared = self._committee.exceeds_faulty(self._heard)
        return counts

    def view_changes_for(self, view: int) -> list[tuple[Signed, ViewChange]]:
        """The VIEW-CHANGEs for exactly this view, sorted by signer."""
        kept = [self._view_changes[name] for name in sorted(self._view_changes)]
        return [(signed, message) for signed, message in kept if message.view == view]

    # ---- PREPARE and COMMIT ------------------------------------------------------------------

    def _add_vote(self, signed: Signed, vote: Vote) -> bool:
        phase = phase_of(vote)
        votes = self._votes.setdefault((phase, signed.signer), {})
        earlier = votes.get(vote.view)
        if earlier is not None:
            self._accused[phase, signed.signer] = None
            return False
        if len(votes) >= VIEWS_KEPT_MAX:
            self._forget(phase, *votes.pop(min(votes)))
        votes[vote.view] = signed, vote
        self._count(phase, vote, signed)
        return True

    def _count(self, phase: Phase, vote: Vote, signed: Signed) -> None:
        key = (phase, vote.view, vote.block_hash)
        count = self._counts.get(key)
        if count is None:
            needed = dict(self._committee.quorum_sizes)
            count = self._counts[key] = _Count(needed, len(needed))
        count.signatures[signed.signer] = signed.signature
        group = self._committee.by_id[signed.signer].group
        count.missing[group] -= 1
        if count.missing[group] != 0:
            return
        count.groups_missing -= 1
        if count.groups_missing == 0:
            self._complete(phase, vote, count)

    def _complete(self, phase: Phase, vote: Vote, count: _Count) -> None:
        # OSDI'99 section 4.2: the predicates prepared and committed-local, as certificates.
        self.certified = True
        if phase is Phase.COMMIT:
            if self.committed is None:
                self.committed = self._assemble(phase, vote, count)
        elif self.prepared is None or vote.view > self.prepared.view:
            self.prepared = self._assemble(phase, vote, count)

    def _assemble(self, phase: Phase, vote: Vote, count: _Count) -> Certificate:
        return assemble(phase, self.height, vote.view, vote.block_hash, count.signatures)

    def _forget(self, phase: Phase, signed: Signed, vote: Vote) -> None:
        key = (phase, vote.view, vote.block_hash)
        count = self._counts[key]
        del count.signatures[signed.signer]
        group = self._committee.by_id[signed.signer].group
        if count.missing[group] == 0:
            count.groups_missing += 1
        count.missing[group] += 1
        if not count.signatures:
            del self._counts[key]

    # ---- VIEW-CHANGE -------------------------------------------------------------------------

    def _add_view_change(self, signed: Signed, message: ViewChange) -> bool:
        kept = self._view_changes.get(signed.signer)
        if kept is not None and kept[1].view == message.view:
            self._accused[Phase.VIEW_CHANGE, signed.signer] = None
            return False
        self._view_changes[signed.signer] = signed, message
        self.certified = self.certified or message.prepared is not None
        asked: dict[str, list[int]] = {name: [] for name in self._committee.group_sizes}
        for name, (_, view_change) in self._view_changes.items():
            asked[self._committee.by_id[name].group].append(view_change.view)
        # OSDI'99 section 4.5.2, second rule, in every group: one class alone drives nobody. Of the
        # views asked for in descending order, the one after f others has more than f askers.
        sizes = self._committee.group_sizes
        quorums = self._committee.quorum_sizes
        self.view_joined = min(_at(asked[name], faulty_max(n)) for name, n in sizes.items())
        self.view_followed = min(_at(asked[name], q - 1) for name, q in quorums.items())
        return True


def _at(views: Iterable[int], position: int) -> int:
    """The view at `position` of these in descending order; 0, where all start, beyond them."""
    descending = sorted(views, reverse=True)
    return descending[position] if position < len(descending) else 0
