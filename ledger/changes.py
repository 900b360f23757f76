"""What members may change about the membership, by vote (docs/ARCHITECTURE.md section 3).

A change is proposed with the height at which it takes effect: the first block that the changed
committee decides. Whoever brings in a new key shows that it holds it, so that nobody can have a
stranger's key listed: the key signs `possession_digest`. That covers the member's id and the key
and nothing else, so that a change of the same member's address meanwhile does not undo it.
"""

from primitives.codec import Canonical, InstitutionId, PublicKey, ShortText, SignatureBytes, encode
from primitives.hashing import digest
from primitives.institution import Address, Institution


class Join(Canonical, frozen=True, tag=1):
    """An institution becomes a member. Its id must never have been a member's."""

    institution: Institution
    possession: SignatureBytes
    """By the institution's key, over `possession_digest`."""


class Leave(Canonical, frozen=True, tag=2):
    """A member leaves; its records and grants stay, its key can never be used again."""

    id: InstitutionId


class ChangeType(Canonical, frozen=True, tag=3):
    """A member's institution type changes, and with it perhaps its consensus class."""

    id: InstitutionId
    institution_type: ShortText
    """One of INSTITUTION_TYPES."""


class RotateKey(Canonical, frozen=True, tag=4):
    """A member's node key is replaced; the old one can never be used again."""

    id: InstitutionId
    key: PublicKey
    possession: SignatureBytes
    """By the new key, over `possession_digest` of the member with that key."""


class Relocate(Canonical, frozen=True, tag=5):
    """A member's node listens at another address."""

    id: InstitutionId
    address: Address


class Reinstate(Canonical, frozen=True, tag=6):
    """A member that evidence spoke against may vote again; what it signed before is forgiven."""

    id: InstitutionId


Change = Join | Leave | ChangeType | RotateKey | Relocate | Reinstate


def subject_of(change: Change) -> str:
    """Return the id of the institution that a change is about."""
    return change.institution.id if isinstance(change, Join) else change.id


def new_key_of(change: Change) -> bytes | None:
    """Return the node key that a change brings in, or None."""
    match change:
        case Join(institution):
            return institution.key
        case RotateKey(_, key):
            return key
        case _:
            return None


def possession_digest(chain_id: bytes, institution: Institution) -> bytes:
    """Return the 32 bytes that an institution's new key signs: it is held, and for this id."""
    return digest("possession", chain_id + encode((institution.id, institution.key)))
