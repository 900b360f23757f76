"""The gate through which peers' messages come: whose they are, and of which height.

Whatever a peer sends, the answer is a value: let in, held for one of the next heights, served, or
dropped and counted by reason. Nothing here raises for a peer's fault, and what a peer can make grow
has a bound: of each voter one message per phase and height is held, and one time of its last
service.

Several heights are held because a quorum waits for nobody: a voter whose processor was busy for an
instant may be some blocks behind, with all that was said since waiting for it. If it dropped that
it would have to ask for those blocks, and while it does all others wait in vain for its turn.

What a voter can make us calculate has a bound too, since an endless number of different messages
can be signed for one height, in ever higher views: each voter has an allowance of signature checks.
Its messages are charged with all checks that they cause, those of certificates included; a height
that a quorum decides adds the few that its messages took, time adds more, and beyond that a voter
is not listened to. There is no bound on how far ahead a view may be: a correct voter that was cut
off with others can come back many views ahead, and must be followed by those who then find a quorum
there. Nor is one needed: a voter's huge view moves nobody unless more than f of every group ask for
as much, and displaces nothing but its own earlier votes (tally.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from consensus.certificates import SignatureCache
from consensus.committee import Committee
from consensus.events import MISDEEDS, Blame, Effect, Serve
from consensus.messages import Phase, PrePrepare, Signed, phase_of, signing_digest

HELD_HEIGHTS = 8
"""Above ours, of which messages are held."""
CHECKS_PER_SECOND = 64
"""Signature checks that time adds to a voter's allowance: 5 ms of calculation in each second. A
correct voter needs them for new views alone, one in half a second at most."""
CHECKS_PER_HEIGHT = 8
"""Signature checks that each new height adds: it costs three messages where nothing goes wrong."""
CHECKS_SAVED_MIN = 64
CHECKS_SAVED_PER_VOTER = 4
"""What an allowance comes to after a pause: CHECKS_SAVED_MIN, and this for each voter. The most
that a correct voter can cause at once is a VIEW-CHANGE and a PRE-PREPARE, with certificates of
which we have seen no signature yet: three for each voter."""


@dataclass(slots=True)
class _Allowance:
    """Thousandths of checks that a voter has left; below 0 it is in debt."""

    left: int
    refilled_at: int


class Intake:
    """The gate of one replica. Reasons of `drop` are constants, so `counters` is bounded too."""

    def __init__(
        self,
        chain_id: bytes,
        id: str,
        committee: Committee,
        resend_ms: int,
        effects: list[Effect],
        now: int,
    ) -> None:
        self._chain_id = chain_id
        self._id = id
        self._committee = committee
        self._resend_ms = resend_ms
        self._effects = effects
        self._height_since = now
        self._held: dict[tuple[int, str, Phase], Signed] = {}
        self._served_at: dict[str, int] = {}
        self._allowances: dict[str, _Allowance] = {}
        self.signatures = SignatureCache()
        self.counters: dict[str, int] = {}
        """Messages dropped so far, by reason."""

    def start_height(self, height: int, committee: Committee, now: int) -> list[Signed]:
        """Go on to a new height; return the messages held for it."""
        self._committee = committee
        self._height_since = now
        self._served_at.clear()
        self._allowances = {
            name: allowance
            for name, allowance in self._allowances.items()
            if name in committee.by_id
        }
        for allowance in self._allowances.values():
            self._add(allowance, CHECKS_PER_HEIGHT * 1_000)
        held = self._held
        self._held = {key: signed for key, signed in held.items() if key[0] > height}
        return [signed for key, signed in held.items() if key[0] == height]

    def drop(self, signed: Signed, reason: str) -> None:
        """Count a message that is not used, and blame its signer if the reason is a misdeed."""
        self.counters[reason] = self.counters.get(reason, 0) + 1
        misdeed = MISDEEDS.get(reason)
        if misdeed is not None:
            self._effects.append(Blame(signed.signer, misdeed))

    def is_from_voter(self, signed: Signed) -> bool:
        """Whether the message names another voter as its signer; counted if not."""
        if signed.signer == self._id:
            self.drop(signed, "own_message")
            return False
        if signed.signer not in self._committee.by_id:
            self.drop(signed, "unknown_signer")
            return False
        return True

    def is_genuine(self, signed: Signed, now: int, *, elsewhere: bool = False) -> bool:
        """Whether the voter named as signer signed the message for this chain; counted if not, or
        if it has made us check too much lately. `elsewhere` is another height than ours, at which
        the voter may have had, or will have, another key.
        """
        if not self._may_check(signed.signer, now):
            self.drop(signed, "checks_exceeded")
            return False
        digest = signing_digest(self._chain_id, signed.signer, signed.message)
        key = self._committee.by_id[signed.signer].key
        with self.charging(signed):
            genuine = self.signatures.verify(key, digest, signed.signature)
        if not genuine:
            self.drop(signed, "not_verified" if elsewhere else "bad_signature")
        return genuine

    @contextmanager
    def charging(self, signed: Signed) -> Iterator[None]:
        """Charge the signatures that are checked meanwhile to the signer of a genuine message."""
        before = self.signatures.checks
        try:
            yield
        finally:
            checks = self.signatures.checks - before
            self._allowances[signed.signer].left -= checks * 1_000

    def _may_check(self, signer: str, now: int) -> bool:
        allowance = self._allowances.get(signer)
        if allowance is None:
            allowance = self._allowances[signer] = _Allowance(self._saved_max, now)
        self._add(allowance, (now - allowance.refilled_at) * CHECKS_PER_SECOND)
        allowance.refilled_at = now
        return allowance.left > 0

    def _add(self, allowance: _Allowance, thousandths: int) -> None:
        allowance.left = min(allowance.left + thousandths, self._saved_max)

    @property
    def _saved_max(self) -> int:
        voters = len(self._committee.voters)
        return (CHECKS_SAVED_MIN + CHECKS_SAVED_PER_VOTER * voters) * 1_000

    def remember_own(self, signed: Signed) -> None:
        """Our own signatures need no check when they come back in a certificate."""
        digest = signing_digest(self._chain_id, signed.signer, signed.message)
        key = self._committee.by_id[signed.signer].key
        self.signatures.remember(key, digest, signed.signature)

    def receive_elsewhere(self, signed: Signed, height: int, now: int) -> list[Serve]:
        """Handle a message that is not of our height: serve a laggard, hold the next heights'."""
        if not self.is_from_voter(signed):
            return []
        if signed.message.height < height:
            return self._serve(signed, now)
        if signed.message.height <= height + HELD_HEIGHTS:
            self._hold(signed, now)
        else:
            self.drop(signed, "future_height")
        return []

    def _serve(self, signed: Signed, now: int) -> list[Serve]:
        # docs/ARCHITECTURE.md section 4: a laggard that asks about an old height is served. The
        # last votes of every height come after its decision; a voter is behind only if it still
        # speaks of an old height when ours has lasted longer than any resend.
        served_at = self._served_at.get(signed.signer)
        early = now - self._height_since < self._resend_ms
        if signed.message.height < 1 or early:
            self.drop(signed, "old_height")
            return []
        if served_at is not None and now - served_at < self._resend_ms:
            self.drop(signed, "served_lately")
            return []
        if not self.is_genuine(signed, now, elsewhere=True):
            return []
        self._served_at[signed.signer] = now
        return [Serve(signed.signer, signed.message.height)]

    def _hold(self, signed: Signed, now: int) -> None:
        # Verified before it is held, against our own committee, lest a forger push out what the
        # voter sent. If a later committee has another key for it, a resend makes up for the loss.
        key = (signed.message.height, signed.signer, phase_of(signed.message))
        kept = self._held.get(key)
        if kept is not None and signed.message.view <= kept.message.view:
            self.drop(signed, "duplicate")
            return
        proposes = self._committee.by_id[signed.signer].proposes
        if isinstance(signed.message, PrePrepare) and not proposes:
            self.drop(signed, "not_proposer")
            return
        if self.is_genuine(signed, now, elsewhere=True):
            self._held[key] = signed
