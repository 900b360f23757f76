"""The gate through which peers' messages come: whose they are, and of which height.

Whatever a peer sends, the answer is a value: let in, held for the next height, served, or dropped
and counted by reason. Nothing here raises for a peer's fault, and what a peer can make grow has a
bound: of each voter one message per phase is held, and one time of its last service.
"""

from consensus.certificates import SignatureCache
from consensus.committee import Committee
from consensus.events import Serve
from consensus.messages import Phase, PrePrepare, Signed, phase_of, signing_digest


class Intake:
    """The gate of one replica. Reasons of `drop` are constants, so `counters` is bounded too."""

    def __init__(
        self, chain_id: bytes, id: str, committee: Committee, resend_ms: int, now: int
    ) -> None:
        self._chain_id = chain_id
        self._id = id
        self._committee = committee
        self._resend_ms = resend_ms
        self._height_since = now
        self._held: dict[tuple[str, Phase], Signed] = {}
        self._served_at: dict[str, int] = {}
        self.signatures = SignatureCache()
        self.counters: dict[str, int] = {}
        """Messages dropped so far, by reason."""

    def start_height(self, committee: Committee, now: int) -> list[Signed]:
        """Go on to a new height; return the messages held for the one after the last."""
        self._committee = committee
        self._height_since = now
        self._served_at.clear()
        held, self._held = list(self._held.values()), {}
        return held

    def drop(self, reason: str) -> None:
        """Count a message that is not used."""
        self.counters[reason] = self.counters.get(reason, 0) + 1

    def is_from_voter(self, signed: Signed) -> bool:
        """Whether the message names another voter as its signer; counted if not."""
        if signed.signer == self._id:
            self.drop("own_message")
            return False
        if signed.signer not in self._committee.by_id:
            self.drop("unknown_signer")
            return False
        return True

    def is_genuine(self, signed: Signed) -> bool:
        """Whether the voter named as signer signed the message for this chain; counted if not."""
        digest = signing_digest(self._chain_id, signed.signer, signed.message)
        key = self._committee.by_id[signed.signer].key
        if self.signatures.verify(key, digest, signed.signature):
            return True
        self.drop("bad_signature")
        return False

    def remember_own(self, signed: Signed) -> None:
        """Our own signatures need no check when they come back in a certificate."""
        digest = signing_digest(self._chain_id, signed.signer, signed.message)
        key = self._committee.by_id[signed.signer].key
        self.signatures.remember(key, digest, signed.signature)

    def receive_elsewhere(self, signed: Signed, height: int, now: int) -> list[Serve]:
        """Handle a message that is not of our height: serve a laggard, hold the next height's."""
        if not self.is_from_voter(signed):
            return []
        if signed.message.height < height:
            return self._serve(signed, now)
        if signed.message.height == height + 1:
            self._hold(signed)
        else:
            self.drop("future_height")
        return []

    def _serve(self, signed: Signed, now: int) -> list[Serve]:
        # docs/ARCHITECTURE.md section 4: a laggard that asks about an old height is served. The
        # last votes of every height come after its decision; a voter is behind only if it still
        # speaks of an old height when ours has lasted longer than any resend.
        served_at = self._served_at.get(signed.signer)
        early = now - self._height_since < self._resend_ms
        if signed.message.height < 1 or early:
            self.drop("old_height")
            return []
        if served_at is not None and now - served_at < self._resend_ms:
            self.drop("served_lately")
            return []
        if not self.is_genuine(signed):
            return []
        self._served_at[signed.signer] = now
        return [Serve(signed.signer, signed.message.height)]

    def _hold(self, signed: Signed) -> None:
        # Verified before it is held, against our own committee, lest a forger push out what the
        # voter sent. If the next committee has another key for it, a resend makes up for the loss.
        key = (signed.signer, phase_of(signed.message))
        kept = self._held.get(key)
        if kept is not None and signed.message.view <= kept.message.view:
            self.drop("duplicate")
            return
        proposes = self._committee.by_id[signed.signer].proposes
        if isinstance(signed.message, PrePrepare) and not proposes:
            self.drop("not_primary")
            return
        if self.is_genuine(signed):
            self._held[key] = signed
