"""Seeing through two-facedness: what each voter has said at a height, and to whom.

A voter that lies tells one story to one half and another to the other half, so that nobody who only
counts votes sees a contradiction. But in one view all correct voters speak of one block, that of
its primary's one proposal. So whoever sees two blocks spoken of in one view knows that somebody
lies, and passes on what it was told: the proposal, and the vote that does not fit. Whoever was told
otherwise by the same voter then holds both signatures, and that is evidence
(docs/ARCHITECTURE.md section 4). Certificates and justifications are looked through likewise.

Bounds: of each voter KEPT_MAX statements, of each peer HEARD_MAX testimonies, of STORIES_MAX views
one story, and TOLD_MAX that are passed on, for each of a few heights. What a peer passes on is
checked only where it would complete a contradiction, at the price of two signatures; who passes on
FORGED_MAX that were never signed is not heard any more.
"""

from consensus.committee import Committee
from consensus.evidence import (
    Evidence,
    EvidenceError,
    Statement,
    ViewChangeStatement,
    VoteStatement,
    check_evidence,
    contradict,
    evidence_from,
    statement_of,
)
from consensus.messages import Certificate, Phase, PrePrepare, Signed, ViewChange
from primitives.codec import encode

KEPT_MAX = 16
"""Statements kept of one voter; the oldest goes first."""
HEARD_MAX = 16
"""Testimonies kept of one peer."""
TOLD_MAX = 8
"""Statements passed on at one height."""
FORGED_MAX = 2
"""Forged testimonies of one peer at one height that are found out: four signatures are checked."""
STORIES_MAX = 64
"""Views whose first story is kept; the oldest goes first, as one voter can speak of any number."""


class Witness:
    """What was said at one height."""

    def __init__(self, chain_id: bytes, height: int, committee: Committee) -> None:
        self.height = height
        self._chain_id = chain_id
        self._committee = committee
        self._said: dict[str, dict[bytes, Statement]] = {}
        self._heard: dict[str, list[tuple[str, Statement]]] = {}
        self._stories: dict[int, tuple[str, VoteStatement]] = {}
        self._forged: dict[str, int] = {}
        self._forgers: list[str] = []
        self._told: dict[bytes, None] = {}
        self._convicted: dict[str, None] = {}
        self._evidence: list[Evidence] = []
        self._testimony: list[tuple[str, Statement]] = []

    # ---- what we know ----------------------------------------------------------------------------

    def observe(self, signed: Signed) -> None:
        """Take a message whose signature has been verified, without what is inside it."""
        self._observe(signed.signer, statement_of(signed))

    def look_into(self, message: PrePrepare | ViewChange) -> None:
        """Take the signatures inside a message, all of which have been verified."""
        if isinstance(message, ViewChange):
            self._observe_certificate(message.prepared)
        elif message.justification is not None:
            for entry in message.justification.view_changes:
                claim = ViewChangeStatement(message.view, entry.prepared, entry.signature)
                self._observe(entry.signer, claim)
            self._observe_certificate(message.justification.prepared)

    def hear(self, peer: str, signer: str, statement: Statement) -> bool:
        """Take what a peer says that a voter told it; False if it says too much, or what is not
        true.
        """
        if signer not in self._committee.by_id or self._forged.get(peer, 0) >= FORGED_MAX:
            return False
        heard = self._heard.setdefault(peer, [])
        if len(heard) >= HEARD_MAX:
            return False
        for known in tuple(self._said.get(signer, {}).values()):
            if not self._compare(signer, known, statement):
                self._distrust(peer)
                return False
        heard.append((signer, statement))
        return True

    @property
    def has_found(self) -> bool:
        """Whether there is something to be taken by the three methods below."""
        return bool(self._evidence or self._forgers or self._testimony)

    def take_evidence(self) -> list[Evidence]:
        """Return the contradictions found since the last call, one for each voter."""
        found, self._evidence = self._evidence, []
        return found

    def take_forgers(self) -> list[str]:
        """Return who passed on what was never signed since the last call, once for each."""
        found, self._forgers = self._forgers, []
        return found

    def take_testimony(self) -> list[tuple[str, Statement]]:
        """Return what is to be passed on to all voters: who said it, and what."""
        told, self._testimony = self._testimony, []
        return told

    # ---- how ---------------------------------------------------------------------------------

    def _observe(self, signer: str, statement: Statement) -> None:
        said = self._said.setdefault(signer, {})
        key = encode(statement)
        if key in said:
            return
        for known in tuple(said.values()):
            self._compare(signer, known, statement)
        for peer, heard in self._heard.items():
            for who, testimony in tuple(heard):
                if who == signer and not self._compare(signer, testimony, statement):
                    heard.remove((who, testimony))
                    self._distrust(peer)
                    break
        if len(said) >= KEPT_MAX:
            del said[next(iter(said))]
        said[key] = statement
        if isinstance(statement, VoteStatement):
            self._follow(signer, statement)

    def _observe_certificate(self, certificate: Certificate | None) -> None:
        if certificate is None:
            return
        for entry in certificate.signatures:
            vote = VoteStatement(
                certificate.phase, certificate.view, certificate.block_hash, entry.signature
            )
            self._observe(entry.signer, vote)

    def _follow(self, signer: str, vote: VoteStatement) -> None:
        """Notice that a view has two stories, and tell both: the first and the one that differs."""
        first = self._stories.get(vote.view)
        if first is None and len(self._stories) >= STORIES_MAX:
            del self._stories[next(iter(self._stories))]
        if first is None or (
            vote.phase == Phase.PRE_PREPARE and vote.block_hash == first[1].block_hash
        ):
            # The proposal is what most others can contradict: it stands for its story.
            self._stories[vote.view] = signer, vote
        elif vote.block_hash != first[1].block_hash:
            self._tell(*first)
            self._tell(signer, vote)

    def _tell(self, signer: str, statement: Statement) -> None:
        key = encode(statement)
        if key not in self._told and len(self._told) < TOLD_MAX:
            self._told[key] = None
            self._testimony.append((signer, statement))

    def _distrust(self, peer: str) -> None:
        """A correct peer passes on only what it has verified."""
        self._forged[peer] = self._forged.get(peer, 0) + 1
        self._forgers.append(peer)
        if self._forged[peer] >= FORGED_MAX:
            self._heard[peer].clear()

    def _compare(self, signer: str, one: Statement, other: Statement) -> bool:
        """Convict the signer if these contradict each other; False if it did not sign them."""
        if signer in self._convicted or not contradict(one, other):
            return True
        evidence = evidence_from(signer, self.height, one, other)
        try:
            check_evidence(evidence, self._chain_id, self._committee.by_id[signer].key)
        except EvidenceError:
            return False
        self._convicted[signer] = None
        self._evidence.append(evidence)
        return True
