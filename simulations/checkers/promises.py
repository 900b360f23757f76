"""All that one member has ever signed, against which everything new that it signs is held."""

from consensus.messages import (
    Commit,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    claim_of,
    phase_of,
)
from simulations.checkers.violation import Violation


class PromiseBook:
    """All that one member has ever promised, whatever its disk has forgotten since."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._signed: dict[tuple[int, int, Phase], Signed] = {}
        self._views: dict[int, list[ViewChange]] = {}
        self._commits: dict[int, list[Commit]] = {}

    def add(self, signed: Signed) -> None:
        """One more promise became durable. Raises Violation if it contradicts an earlier one."""
        message = signed.message
        phase = phase_of(message)
        place = (message.height, message.view, phase)
        earlier = self._signed.setdefault(place, signed)
        if _value(earlier) != _value(signed):
            raise Violation(
                f"{self._id} contradicts itself: {text_of(earlier)} and {text_of(signed)}"
            )
        view_changes = self._views.setdefault(message.height, [])
        commits = self._commits.setdefault(message.height, [])
        if isinstance(message, ViewChange):
            view_changes.append(message)
        elif any(view_change.view > message.view for view_change in view_changes):
            raise Violation(f"{self._id} signs {text_of(signed)} in a view that it has left")
        if isinstance(message, Commit):
            commits.append(message)
        for view_change in view_changes:
            claimed = -1 if view_change.prepared is None else view_change.prepared.view
            if any(claimed < commit.view < view_change.view for commit in commits):
                raise Violation(f"{self._id} hides a block that it had prepared: {text_of(signed)}")

    @property
    def signed(self) -> tuple[Signed, ...]:
        """All promises, the first of each place."""
        return tuple(self._signed.values())

    def holds(self, signed: Signed) -> bool:
        """Whether exactly this was promised."""
        message = signed.message
        kept = self._signed.get((message.height, message.view, phase_of(message)))
        return kept == signed


def _value(signed: Signed) -> object:
    """What a member commits itself to in one (height, view, phase)."""
    match signed.message:
        case PrePrepare(_, _, block):
            return block.hash
        case Prepare(_, _, block_hash) | Commit(_, _, block_hash):
            return block_hash
        case ViewChange(_, _, prepared):
            return claim_of(prepared)


def text_of(signed: Signed) -> str:
    """A message in a few words: phase, height and view."""
    message = signed.message
    return f"{phase_of(message).name}({message.height}, {message.view})"
