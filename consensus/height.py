"""One height of one replica: its state and the rules of the table in replica.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from consensus.certificates import CertificateError, check_view_change
from consensus.committee import Committee
from consensus.events import Decide, Effect, Fetch, Persist, WantBlock
from consensus.intake import Intake
from consensus.messages import (
    Certificate,
    Commit,
    Decision,
    Justification,
    Message,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
)
from consensus.pacing import Pacing
from consensus.promises import Promises
from consensus.tally import Tally
from consensus.view_change import ProposalError, check_proposal, justify
from consensus.voice import Identity, Voice
from consensus.witness import Witness
from primitives.block import Block, BlockHeader
from primitives.codec import VIEW_MAX

BLOCKS_KEPT_MAX = 4
"""Checked blocks of one height kept in memory; an older one would be fetched again."""


@dataclass(frozen=True, slots=True)
class _Proposal:
    """The accepted PRE-PREPARE of the current view; `fresh` if no claim obliged the primary."""

    signed: Signed
    block: Block
    fresh: bool


class HeightState:
    """Everything that ends with the height. Effects are appended to the list it is given."""

    view: int
    _proposal: _Proposal | None
    _primary_accused: bool
    _justification: Justification | None
    _block_wanted: bool
    _fetching: dict[tuple[bytes, bool], None]

    def __init__(
        self,
        identity: Identity,
        head: BlockHeader,
        committee: Committee,
        recorded: Sequence[Persist],
        pacing: Pacing,
        intake: Intake,
        effects: list[Effect],
    ) -> None:
        own = committee.by_id.get(identity.id)
        self.height = head.height + 1
        self.committee = committee
        self.decided = False
        self._votes = own is not None and own.key == identity.key.public
        self._identity = identity
        self._head = head
        self._head_hash = head.hash()
        self._pacing = pacing
        self._intake = intake
        self._effects = effects
        self._promises = Promises(self.height, recorded)
        self._voice = Voice(identity, self._promises, intake, effects)
        self._tally = Tally(self.height, committee)
        self.witness = Witness(identity.chain_id, self.height, committee)
        self._checked: dict[bytes, Block] = {}
        pacing.sleep()
        self._enter(0)

    def restore(self, now: int) -> None:
        """Go on from the promises of an earlier process: our votes count, our views are left.

        The blocks among them were checked by that process, not by this one, so they are asked for
        again when a rule needs them.
        """
        if not self._promises.latest or not self._votes:
            return
        self._enter(self._promises.highest_view)
        for signed in self._promises.latest.values():
            self._intake.remember_own(signed)
            self.witness.observe(signed)
            message = signed.message
            if not isinstance(message, PrePrepare):
                self._tally.add(signed)
            elif message.view == self.view:
                self._proposal = _Proposal(signed, message.block, fresh=False)
        self._pacing.wake(now)

    # ---- views and clocks --------------------------------------------------------------------

    def _enter(self, view: int) -> None:
        """Be in a view. The rules look at `view`, so nothing is signed below it any more."""
        self.view = view
        self._proposal = None
        self._primary_accused = False
        self._justification = None
        self._block_wanted = False
        self._fetching = {}
        self._pacing.leave_view()

    def _leave(self, view: int, now: int) -> None:
        """Give up all views below `view`. OSDI'99 section 4.4: VIEW-CHANGE."""
        self._enter(view)
        self._sign(ViewChange(self.height, view, self._promises.prepared), now)

    @property
    def _is_primary(self) -> bool:
        return self.committee.primary(self.height, self.view) == self._identity.id

    @property
    def _is_proposed(self) -> bool:
        """Whether this view's primary has done its part, as far as we need it."""
        voted = (self._promises.view(Phase.PREPARE), self._promises.view(Phase.COMMIT))
        return self._proposal is not None or self.view in voted

    @property
    def _is_followed(self) -> bool:
        """Whether a quorum is known to be in this view or above it, so that it may be timed."""
        return self.view == 0 or self._is_proposed or self._tally.view_followed >= self.view

    def _wake(self, now: int) -> None:
        """There is a reason to decide this height."""
        if self._votes and not self.decided and not self._pacing.awake:
            self._pacing.postpone_resend(now)

    def take_pending(self, now: int) -> None:
        """Something waits to be ordered; if we have asked for a block in vain, ask again."""
        self._block_wanted = False
        self._wake(now)

    @property
    def heeds_work(self) -> bool:
        """Whether `take_pending` would change anything."""
        return self._block_wanted or not self._pacing.awake

    def suspect(self, now: int) -> None:
        """Leave another's view before its time is over (docs/ARCHITECTURE.md section 5)."""
        self._wake(now)
        self._time_view(now)
        if self._pacing.timed and not self._is_primary:
            self._leave(self.view + 1, now)

    def rest(self) -> None:
        """Stop the clocks if nothing is known here that could still be decided.

        A block that we vouched for, or that a quorum is known to have prepared, is not left alone.
        """
        spoken = (Phase.PRE_PREPARE, Phase.PREPARE, Phase.COMMIT)
        vouched = any(self._promises.view(phase) >= 0 for phase in spoken)
        if self._proposal is None and not vouched and not self._tally.certified:
            self._pacing.sleep()

    def expire(self, now: int) -> None:
        """Leave a view that has had its time; or send again what may have been lost."""
        if self._pacing.view_over(now):
            self._leave(self.view + 1, now)
        elif self._pacing.resend_due(now):
            self._voice.repeat(self.view)
            self._fetching.clear()
            self._pacing.postpone_resend(now)

    @property
    def shared(self) -> bool:
        """Whether more than f voters of every group have sent something at this height."""
        return self._tally.shared

    def disowns(self, certificate: Certificate) -> bool:
        """Whether our key has signed a vote in this certificate that we have not."""
        signers = [entry.signer for entry in certificate.signatures]
        own = self._votes and self._identity.id in signers
        return own and self._promises.disowns(certificate)

    @property
    def checked(self) -> tuple[bytes, ...]:
        """The hashes of the checked blocks kept in memory."""
        return tuple(self._checked)

    def latest_messages(self) -> list[Signed]:
        """Our messages that a voter which has just connected may have missed."""
        return self._voice.repeated(self.view)

    # ---- what peers send ---------------------------------------------------------------------

    def receive_vote(
        self, signed: Signed, message: Prepare | Commit | ViewChange, now: int
    ) -> None:
        """OSDI'99 sections 4.2 and 4.4: log a PREPARE, COMMIT or VIEW-CHANGE that is genuine."""
        refusal = self._vote_refusal(signed.signer, message)
        if refusal is not None:
            self._intake.drop(signed, refusal)
            return
        if not self._intake.is_genuine(signed, now):
            return
        if isinstance(message, ViewChange):
            try:
                chain_id, signatures = self._identity.chain_id, self._intake.signatures
                with self._intake.charging(signed):
                    check_view_change(message, chain_id, self.committee, signatures)
            except CertificateError:
                self._intake.drop(signed, "bad_certificate")
                return
            self.witness.look_into(message)
        self.witness.observe(signed)
        if not self._tally.add(signed):
            self._intake.drop(signed, "equivocation")
        if self._tally.shared:
            self._wake(now)

    def _vote_refusal(self, signer: str, message: Prepare | Commit | ViewChange) -> str | None:
        """Why a vote needs no look at its signature; None if it does."""
        match message:
            case Prepare():
                old = message.view < self.view
            case Commit():
                # A quorum of them decides even if we left that view.
                old = False
            case ViewChange():
                # Nobody needs to ask for view 0, where all start.
                old = message.view < max(self.view, 1)
            case _:
                assert_never(message)
        return "old_view" if old else self._tally.refusal(signer, message)

    def receive_proposal(self, signed: Signed, message: PrePrepare, now: int) -> None:
        """OSDI'99 sections 4.2 (accept a PRE-PREPARE) and 4.4 (accept a NEW-VIEW)."""
        refusal = self._proposal_refusal(signed, message)
        if refusal is not None:
            self._intake.drop(signed, refusal)
            return
        if not self._intake.is_genuine(signed, now):
            return
        self.witness.observe(signed)
        if self._proposal is not None and message.view == self.view:
            self._primary_accused = True
            self._intake.drop(signed, "equivocation")
            return
        try:
            chain_id, signatures = self._identity.chain_id, self._intake.signatures
            with self._intake.charging(signed):
                claim = check_proposal(
                    message, signed.signer, chain_id, self._head, self.committee, signatures
                )
        except (CertificateError, ProposalError):
            self._intake.drop(signed, "bad_proposal")
            return
        self.witness.look_into(message)
        if message.view > self.view:
            self._enter(message.view)
        self._proposal = _Proposal(signed, message.block, fresh=claim is None)
        self._wake(now)

    def _proposal_refusal(self, signed: Signed, message: PrePrepare) -> str | None:
        """Why a PRE-PREPARE needs no look at its signature; None if it does."""
        if message.view < self.view:
            return "old_view"
        if signed.signer != self.committee.primary(self.height, message.view):
            return "not_primary"
        if message.view == self.view and self._proposal is not None:
            if self._proposal.block.hash == message.block.hash:
                return "duplicate"
            if self._primary_accused:
                return "equivocation"
        return None

    # ---- what the node answers ---------------------------------------------------------------

    def take_fetched(self, block: Block) -> None:
        """A block is complete here and valid; if it is of another head, nobody asks for it now."""
        self._keep_checked(block)

    def take_proposed(self, block: Block, now: int) -> None:
        """OSDI'99 section 4.2: the primary multicasts its PRE-PREPARE. Raises ValueError."""
        header = block.header
        late = (header.height, header.view) < (self.height, self.view)
        if late or self.decided or self._promises.view(Phase.PRE_PREPARE) == self.view:
            return
        wanted = (self.height, self.view, self._identity.id, self._head_hash)
        given = (header.height, header.view, header.proposer, header.parent_hash)
        if given != wanted or not self._block_wanted:
            raise ValueError("a block was proposed that no WantBlock asked for")
        self._block_wanted = False
        self._send_proposal(block, now)

    def _keep_checked(self, block: Block) -> None:
        self._checked[block.hash] = block
        if len(self._checked) > BLOCKS_KEPT_MAX:
            del self._checked[next(iter(self._checked))]

    # ---- rules -------------------------------------------------------------------------------

    def apply_rules(self, now: int) -> None:
        """Try all rules in their order; what one does may enable those after it."""
        if self.decided:
            return
        if self._votes:
            self._join(now)
            self._time_view(now)
            self._propose(now)
            self._prepare(now)
            self._commit(now)
        self._decide(now)

    def _join(self, now: int) -> None:
        """OSDI'99 section 4.5.2, second rule: follow f + 1 others, here of every group."""
        if self._tally.view_joined > self.view:
            self._leave(self._tally.view_joined, now)

    def _time_view(self, now: int) -> None:
        """OSDI'99 section 4.5.2, first rule: do not time a view before a quorum follows it.

        More than f liars of every group can take us to the last view, which none follows.
        """
        followed = self._is_followed and self.view < VIEW_MAX
        if self._pacing.awake and not self._pacing.timed and followed:
            self._pacing.time_view(self.view, now)
        # After a round of turns all views get their time: nobody runs through them at full speed.
        needed = self.view < len(self.committee.roster) and not self._is_proposed
        primary = self.committee.primary(self.height, self.view) if needed else self._identity.id
        self._pacing.await_primary(None if primary == self._identity.id else primary)

    def _propose(self, now: int) -> None:
        """OSDI'99 sections 4.2 and 4.4: the primary's fresh block, or the one it must repeat."""
        if (
            not self._is_primary
            or self._promises.view(Phase.PRE_PREPARE) == self.view
            or not self._pacing.awake
        ):
            return
        # The first quorum of VIEW-CHANGEs is kept: a later one may oblige us to something else.
        if self.view > 0 and self._justification is None:
            self._justification = justify(self._tally.view_changes_for(self.view), self.committee)
            if self._justification is None:
                return
        prepared = None if self._justification is None else self._justification.prepared
        if prepared is not None:
            block = self._get_certified(prepared)
            if block is not None:
                self._send_proposal(block, now)
        elif not self._block_wanted:
            self._block_wanted = True
            self._effects.append(WantBlock(self.height, self.view))

    def _send_proposal(self, block: Block, now: int) -> None:
        message = PrePrepare(self.height, self.view, block, self._justification)
        self._keep_checked(block)
        self._proposal = _Proposal(self._sign(message, now), block, fresh=False)

    def _prepare(self, now: int) -> None:
        """OSDI'99 section 4.2: PREPARE, which here vouches for the block's content as well."""
        proposal = self._proposal
        if proposal is None or self._promises.view(Phase.PREPARE) >= self.view:
            return
        block_hash = proposal.block.hash
        block = self._checked.get(block_hash)
        if block is not None:
            self._sign(Prepare(self.height, self.view, block_hash), now, block=block)
        elif not self._is_prepared(block_hash):
            # Once a quorum vouches for the hash, the next rule asks that quorum instead.
            self._fetch(block_hash, proposal.block, proposal.fresh, (proposal.signed.signer,))

    def _commit(self, now: int) -> None:
        """OSDI'99 section 4.2: COMMIT once prepared.

        The certificate takes the place of a PRE-PREPARE that we did not get or could not accept
        (an equivocating primary, a clock that is off): a quorum has checked it for us.
        """
        prepared = self._tally.prepared
        if prepared is None or prepared.view < self.view:
            return
        if self._promises.view(Phase.COMMIT) >= prepared.view:
            return
        block = self._get_certified(prepared)
        if block is None:
            return
        if prepared.view > self.view:
            self._enter(prepared.view)
        own = self._promises.block
        durable = own is not None and own.hash == prepared.block_hash
        message = Commit(self.height, prepared.view, prepared.block_hash)
        self._sign(message, now, prepared=prepared, block=None if durable else block)

    def _decide(self, now: int) -> None:
        """OSDI'99 section 4.2: committed-local, in any view of this height."""
        committed = self._tally.committed
        block = None if committed is None else self._get_certified(committed)
        if committed is None or block is None:
            return
        self.decided = True
        self._pacing.decided(now, in_time=committed.view == self.view)
        self._effects.append(Decide(Decision(block, committed)))

    # ---- what the rules share ----------------------------------------------------------------

    def _is_prepared(self, block_hash: bytes) -> bool:
        """Whether a quorum prepared this block in our view or above it."""
        prepared = self._tally.prepared
        return (
            prepared is not None
            and prepared.view >= self.view
            and prepared.block_hash == block_hash
        )

    def _get_certified(self, certificate: Certificate) -> Block | None:
        """The checked block of a certificate; if it is not here, its signers are asked for it."""
        block_hash = certificate.block_hash
        block = self._checked.get(block_hash)
        if block is None:
            # What a proposer sent may have a false payload under the right hash; our own has not.
            own = self._promises.block
            known = own if own is not None and own.hash == block_hash else None
            holders = tuple(entry.signer for entry in certificate.signatures)
            self._fetch(block_hash, known, False, holders)
        return block

    def _fetch(
        self, block_hash: bytes, block: Block | None, fresh: bool, holders: Sequence[str]
    ) -> None:
        if (block_hash, fresh) not in self._fetching:
            self._fetching[block_hash, fresh] = None
            others = tuple(name for name in holders if name != self._identity.id)
            self._effects.append(Fetch(block_hash, block, fresh, others))

    def _sign(
        self,
        message: Message,
        now: int,
        prepared: Certificate | None = None,
        block: Block | None = None,
    ) -> Signed:
        """Say it, and count our own vote like any other."""
        signed = self._voice.say(message, prepared, block)
        self.witness.observe(signed)
        if not isinstance(message, PrePrepare):
            self._tally.add(signed)
        self._pacing.postpone_resend(now)
        return signed
