"""Who votes at a height and how many are enough, worked out again from the definitions.

The members are read from the state below the block, as the nodes do; who of them votes, in which
group, and what a quorum is follows here from docs/ARCHITECTURE.md section 3 alone, in the plainest
way. Where the committee that the nodes use differs, that is a violation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consensus.messages import Certificate, Phase, vote_digest
from ledger.committee import committee_at
from ledger.genesis import Genesis
from ledger.state import members
from ledger.store import StateReader
from primitives.institution import ConsensusClass
from primitives.keys import verify
from simulations.checkers.violation import Violation


@dataclass(frozen=True, slots=True)
class Council:
    """The voters of one height by group, their keys, and the recorders whose turn may come."""

    height: int
    groups: tuple[tuple[str, ...], ...]
    keys: Mapping[str, bytes]
    roster: tuple[str, ...]
    committee_hash: bytes

    def primary(self, view: int) -> str:
        """Whose turn it is in a view."""
        return self.roster[(self.height + view) % len(self.roster)]

    def missing(self, voters: Sequence[str]) -> str | None:
        """Where these voters are no quorum, in words; None if they are one.

        Two quorums of a group of n must share more than f = (n - 1) // 3 members.
        """
        for group in self.groups:
            present = sum(who in voters for who in group)
            if 2 * present <= len(group) + (len(group) - 1) // 3:
                return f"{present} of {len(group)} voters"
        return None

    def is_sound(self, liars: Sequence[str]) -> bool:
        """Whether some group has so few liars that nothing may fork."""
        return any(
            sum(who in liars for who in group) <= (len(group) - 1) // 3 for group in self.groups
        )


def council_at(height: int, state: StateReader, genesis: Genesis, liars: Sequence[str]) -> Council:
    """The voters of `height`, the state being that below it. Raises Violation if the nodes' own
    committee is another, or leaves out a correct member.
    """
    committee = committee_at(state, genesis)
    listed = {member.id: member for member in members(state)}
    voting = [ConsensusClass.RECORDER, ConsensusClass.AUDITOR]
    if genesis.quorum == "flat":
        voting.append(ConsensusClass.OBSERVER)
    duties = {member.id: genesis.classes[member.type] for member in listed.values()}
    entitled = [id for id, duty in duties.items() if duty in voting]
    keys = {voter.id: voter.key for voter in committee.voters}
    for id, key in keys.items():
        if id not in entitled or listed[id].key != key:
            raise Violation(f"{id} votes at height {height} and should not")
    for id in entitled:
        if id not in keys and id not in liars:
            raise Violation(f"{id} is correct and has no vote at height {height}")
    present = [id for id in entitled if id in keys]
    if genesis.quorum == "per_class":
        groups = [tuple(id for id in present if duties[id] is duty) for duty in voting]
    else:
        groups = [tuple(present)]
    recorders = [id for id in present if duties[id] is ConsensusClass.RECORDER]
    roster = committee.roster
    enough = 2 * len(roster) > len(recorders) + (len(recorders) - 1) // 3
    if not enough or list(roster) != [id for id in sorted(recorders) if id in roster]:
        raise Violation(f"the roster of height {height} is {', '.join(roster)}")
    sizes = tuple(group for group in groups if group)
    return Council(height, sizes, keys, roster, committee.hash)


class Signatures:
    """Checks certificates anew, each signature once."""

    def __init__(self, chain_id: bytes) -> None:
        self._chain_id = chain_id
        self._valid: dict[tuple[bytes, bytes, bytes], bool] = {}

    def check(self, id: str, certificate: Certificate, phase: Phase, council: Council) -> None:
        """Raise Violation unless a quorum of true voters signed it; `id` holds it."""
        reason = self._fault(certificate, phase, council)
        if reason is not None:
            raise Violation(f"{id} holds a certificate that proves nothing: {reason}")

    def _fault(self, certificate: Certificate, phase: Phase, council: Council) -> str | None:
        if (certificate.phase, certificate.height) != (phase, council.height):
            return f"it is of phase {certificate.phase} and height {certificate.height}"
        signers = [entry.signer for entry in certificate.signatures]
        for entry in certificate.signatures:
            who = entry.signer
            if who not in council.keys or signers.count(who) > 1:
                return f"{who} has no vote in it, or two"
            signed = vote_digest(
                self._chain_id,
                who,
                phase,
                certificate.height,
                certificate.view,
                certificate.block_hash,
            )
            if not self._verify(council.keys[who], signed, entry.signature):
                return f"{who} did not sign it"
        return council.missing(signers)

    def _verify(self, key: bytes, digest: bytes, signature: bytes) -> bool:
        place = (key, digest, signature)
        if place not in self._valid:
            self._valid[place] = verify(key, digest, signature)
        return self._valid[place]
