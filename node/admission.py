"""With whom this node exchanges messages: the members that its ledger lists, whoever is about to
join, and, for a node that is behind, those that its operator named.
"""

from collections.abc import Sequence

from ledger.standing import owner_of
from ledger.store import StateReader
from node.transport import Member
from primitives.institution import Institution


class KeyReplaced(Exception):
    """A vote has given this institution another node key; the process must end and start again."""


def admitted_members(
    institutions: Sequence[Institution], bootstrap: Sequence[Member], state: StateReader
) -> list[Member]:
    """Return whom the transport lets in and dials.

    A bootstrap peer counts only as long as the ledger does not know its key, and then instead of
    the member of that id: blocks certify themselves, so it can do no harm, and when the ledger
    knows the key, now or as a former one, the ledger decides.
    """
    found = {each.id: Member(each.id, each.key, each.address) for each in institutions}
    for peer in bootstrap:
        owner = owner_of(state, peer.key)
        if owner is None or not owner.listed:
            found[peer.id] = peer
    return list(found.values())


def check_own_key(institutions: Sequence[Institution], id: str, key: bytes) -> None:
    """Raise KeyReplaced if `id` is listed with another key than the `key` that it had until now."""
    for each in institutions:
        if each.id == id and each.key != key:
            raise KeyReplaced(
                f"A vote has replaced the key of {id}: the ledger lists {each.key.hex()}. Start "
                "the node again; if the new key waits beside the key file, it takes its place."
            )
