"""What this voter has signed at one height, and the guard that it never signs against it.

A promise is a signed message: once it is out, others build certificates on it, so it must outlive a
crash (docs/ARCHITECTURE.md section 4). The replica asks `keep` before a message leaves; after a
restart it is given the same records in the same order, and the same guard reads them. The rules are
those that the proof needs (OSDI'99 section 4.5.1), and evidence against others is their breach:

* in each phase, one message per view, and views only ascend;
* after a VIEW-CHANGE for w, nothing in a view below w;
* a COMMIT rests on the prepared certificate of its view and block;
* a VIEW-CHANGE names the best prepared certificate that a COMMIT of ours rests on.
"""

from collections.abc import Sequence
from typing import assert_never

from consensus.events import Persist
from consensus.messages import (
    Certificate,
    Commit,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    claim_of,
    phase_of,
)
from primitives.block import Block


class PromiseError(RuntimeError):
    """We were about to contradict what we signed, or the record of it does: stop the node."""


class Promises:
    """Our own signed messages of one height: per phase the latest, which alone still matters."""

    def __init__(self, height: int, recorded: Sequence[Persist] = ()) -> None:
        """Take up what an earlier process recorded. Raises PromiseError if it is not consistent."""
        self.height = height
        self.latest: dict[Phase, Signed] = {}
        self.prepared: Certificate | None = None
        """The certificate that our latest COMMIT rests on: what a VIEW-CHANGE must name."""
        self.block: Block | None = None
        """The block of our latest PREPARE (or of a COMMIT without one), durable with it."""
        for persist in recorded:
            self.keep(persist)

    def view(self, phase: Phase) -> int:
        """The view of our latest message of this phase; -1 if there is none."""
        signed = self.latest.get(phase)
        return -1 if signed is None else signed.message.view

    @property
    def highest_view(self) -> int:
        """The view that we are in by our own word; -1 if we have given none."""
        return max((signed.message.view for signed in self.latest.values()), default=-1)

    def disowns(self, certificate: Certificate) -> bool:
        """Whether a verified certificate of this height with our signature shows a vote that is
        not ours: only the latest is known of each phase, and views ascend.
        """
        signed = self.latest.get(Phase(certificate.phase))
        if signed is None or signed.message.view != certificate.view:
            return signed is None or signed.message.view < certificate.view
        message = signed.message
        return isinstance(message, Prepare | Commit) and (
            message.block_hash != certificate.block_hash
        )

    def keep(self, persist: Persist) -> None:
        """Take note of one more message. Raises PromiseError if it contradicts an earlier one."""
        message = persist.signed.message
        phase = phase_of(message)
        if message.height != self.height:
            raise PromiseError(f"a promise of height {message.height} at height {self.height}")
        if message.view <= self.view(phase):
            raise PromiseError(f"a second {phase.name} in view {message.view}")
        if message.view < self.view(Phase.VIEW_CHANGE):
            raise PromiseError(f"a {phase.name} in view {message.view}, which we have left")
        match message:
            case PrePrepare():
                pass
            case Prepare():
                self._check_prepare(message, persist.block)
            case Commit():
                self._check_commit(message, persist.prepared)
            case ViewChange():
                self._check_view_change(message)
            case _:
                assert_never(message)
        self.latest[phase] = persist.signed
        if persist.prepared is not None:
            self.prepared = persist.prepared
        if persist.block is not None:
            self.block = persist.block

    def _check_prepare(self, message: Prepare, block: Block | None) -> None:
        if block is None or block.hash != message.block_hash:
            raise PromiseError("a PREPARE without its block")
        own = self.latest.get(Phase.PRE_PREPARE)
        if own is None or own.message.view != message.view:
            return
        if isinstance(own.message, PrePrepare) and own.message.block.hash != message.block_hash:
            raise PromiseError("a PREPARE for another block than our own proposal")

    def _check_commit(self, message: Commit, prepared: Certificate | None) -> None:
        if prepared is None or (prepared.phase, prepared.view, prepared.block_hash) != (
            Phase.PREPARE,
            message.view,
            message.block_hash,
        ):
            raise PromiseError("a COMMIT without its prepared certificate")

    def _check_view_change(self, message: ViewChange) -> None:
        if message.view <= self.highest_view:
            raise PromiseError(f"a VIEW-CHANGE for view {message.view}, where we already are")
        if claim_of(message.prepared) != claim_of(self.prepared):
            raise PromiseError("a VIEW-CHANGE that hides what we had prepared")
