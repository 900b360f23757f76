"""What the state map holds: the heads of all chains, the grants and the members.

Every record, person and institution is a *chain*: the operations that concern it, in order. One
value per chain holds how many entries it has, their accumulated hash, and the entity itself, so
that an operation writes few keys and a proof about a chain is a proof of one value.
"""

from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Final, TypeVar

import msgspec

from ledger.operations import GRANT_RECORDS_MAX, InstitutionParty, Labels, Party, PersonParty
from ledger.store import StateChanges, StateReader
from primitives.codec import (
    Canonical,
    CodecError,
    Digest,
    Height,
    InstitutionId,
    Milliseconds,
    PublicKey,
    UInt,
    decode_own,
    encode,
    encode_each,
)
from primitives.hashing import ZERO_DIGEST, digest
from primitives.institution import Institution

INSTITUTIONS_MAX: Final = 1_024
"""Members of one ledger."""
MEMBERS_KEY: Final = b"members"
IDS_REMEMBERED_MAX: Final = 10_240
"""Ids of persons, and of records, that are not hashed again within a block, which names fewer by
the default of `block_work_max`; less than 5 MB."""


class StateError(RuntimeError):
    """The state contradicts itself: the node must stop, and its database be checked."""


class Person(Canonical, frozen=True, tag=1):
    """An enrolled person; the chain id is `person_id(key)`."""

    key: PublicKey
    kind: str
    attested_by: str
    """The id of a member."""


class Record(Canonical, frozen=True, tag=2):
    """A registered record; the chain id is `record_id(custodian, commitment)`."""

    commitment: Digest
    labels: Labels
    custodian: str
    """The id of a member."""
    subject: Digest | None


class Member(Canonical, frozen=True, tag=3):
    """A member institution; the chain id is `institution_chain(id)`. See Members for the rest."""

    id: InstitutionId


Entity = Person | Record | Member


class ChainHead(Canonical, frozen=True):
    """The value under `chain_key(chain id)`."""

    count: UInt
    """Entries so far."""
    accumulated: Digest
    """See ledger/entries.py; ZERO_DIGEST before the first entry."""
    entity: Entity


class GrantState(Canonical, frozen=True):
    """The value under `grant_key(grant id)`: what the grant says, and whether it still holds."""

    grantor: Party
    grantee: Party
    records: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=GRANT_RECORDS_MAX)]
    purpose: str
    expires_ms: Milliseconds
    revoked_height: Height
    """0 as long as it is not revoked."""


class Members(Canonical, frozen=True):
    """The value under MEMBERS_KEY: the institutions of the ledger, sorted by id."""

    institutions: Annotated[tuple[Institution, ...], msgspec.Meta(max_length=INSTITUTIONS_MAX)]


def new_chain(entity: Entity) -> ChainHead:
    """Return the head of a chain without entries."""
    return ChainHead(0, ZERO_DIGEST, entity)


@lru_cache(maxsize=IDS_REMEMBERED_MAX)
def person_id(key: bytes) -> bytes:
    """Return the id of the person who holds `key`, and of their chain: 32 bytes."""
    return digest("person", key)


@lru_cache(maxsize=IDS_REMEMBERED_MAX)
def record_id(custodian: str, commitment: bytes) -> bytes:
    """Return the id of a record, and of its chain: 32 bytes."""
    return digest("record", commitment + custodian.encode())


@lru_cache(maxsize=INSTITUTIONS_MAX)
def institution_chain(institution: str) -> bytes:
    """Return the id of an institution's chain: 32 bytes."""
    return digest("institution", institution.encode())


def chain_of(party: Party) -> bytes:
    """Return the id of a party's chain: 32 bytes."""
    if isinstance(party, PersonParty):
        return party.id
    return institution_chain(party.id)


def grant_id(transaction: bytes, operation: int) -> bytes:
    """Return the id of the grant made by operation number `operation` of a transaction."""
    return digest("grant", transaction + operation.to_bytes(8, "big"))


def chain_key(chain: bytes) -> bytes:
    """Return the key of the state map under which a chain's head is."""
    return b"chain/" + chain


def grant_key(grant: bytes) -> bytes:
    """Return the key of the state map under which a grant is."""
    return b"grant/" + grant


def chain_head(state: StateReader, chain: bytes) -> ChainHead | None:
    """Return a chain's head, or None if there is no such chain."""
    return read_value(state, chain_key(chain), ChainHead)


def known_chain(state: StateReader, chain: bytes) -> ChainHead:
    """Return the head of a chain that must be there. Raises StateError."""
    head = chain_head(state, chain)
    if head is None:
        raise StateError(f"The state has lost the chain {chain.hex()}.")
    return head


def grant_state(state: StateReader, grant: bytes) -> GrantState | None:
    """Return a grant, or None if there is none of this id."""
    return read_value(state, grant_key(grant), GrantState)


T = TypeVar("T", bound=Canonical)


def read_value(state: StateReader, key: bytes, kind: type[T]) -> T | None:
    """Return the value under `key` as a `kind`, or None. Raises StateError for a damaged value."""
    if isinstance(state, Overlay):
        return state.read(key, kind)
    raw = state.value(key)
    return None if raw is None else _decode_value(key, raw, kind)


def _decode_value(key: bytes, raw: bytes, kind: type[T]) -> T:
    # The members are large, read in every block, and nearly never change.
    decode = _decode_remembered if key == MEMBERS_KEY else decode_own
    try:
        return decode(raw, kind)
    except CodecError as error:
        raise StateError(
            f"The state holds what is no {kind.__name__} under {key.hex()}."
        ) from error


@lru_cache(maxsize=2)
def _decode_remembered(raw: bytes, kind: type[T]) -> T:
    """Decode once what is read again and again: 4 ms for a thousand members."""
    return decode_own(raw, kind)


class EmptyState:
    """The state map before genesis."""

    def value(self, key: bytes) -> bytes | None:
        """Return None."""
        return None

    def held(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return nothing."""
        return {}

    def node(self, path: bytes) -> bytes | None:
        """Return None."""
        return None

    def nodes_at(self, paths: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return nothing."""
        return {}


class StateInMemory:
    """A state map in two dictionaries."""

    values: dict[bytes, bytes]
    nodes: dict[bytes, bytes]

    def __init__(self) -> None:
        self.values = {}
        self.nodes = {}

    def take(self, changes: StateChanges) -> None:
        """Go on to the next state."""
        self.values.update(changes.values)
        self.nodes.update(changes.nodes)

    def value(self, key: bytes) -> bytes | None:
        """Return the canonical value bytes under a key, or None."""
        return self.values.get(key)

    def held(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return what those of `keys` hold that hold anything."""
        return {key: self.values[key] for key in keys if key in self.values}

    def node(self, path: bytes) -> bytes | None:
        """Return the encoded trie node at a path, or None."""
        return self.nodes.get(path)

    def nodes_at(self, paths: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the nodes at those of `paths` that have one."""
        return {path: self.nodes[path] for path in paths if path in self.nodes}


_UNKNOWN: Final = new_chain(Member(""))
"""Stands for what an overlay has not read yet."""


class Overlay:
    """A state map with writes of its own on top of another, which stays as it is.

    Values are kept as objects: read from below once, encoded once at the end.
    """

    __slots__ = ("_base", "_foreseen", "_known", "_written")

    def __init__(self, base: StateReader) -> None:
        self._base = base
        self._foreseen: Mapping[bytes, bytes] = {}
        self._known: dict[bytes, Canonical | None] = {}
        self._written: dict[bytes, Canonical] = {}

    def value(self, key: bytes) -> bytes | None:
        """Return the canonical value bytes under a key, or None."""
        written = self._written.get(key)
        return self._base.value(key) if written is None else encode(written)

    def held(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return what those of `keys` hold that hold anything."""
        held = dict(self._base.held(keys))
        held.update((key, encode(self._written[key])) for key in keys if key in self._written)
        return held

    def foresee(self, keys: Sequence[bytes], present: Sequence[bytes]) -> None:
        """Read from below in one go what is about to be read here; once, before anything is.

        Below holds none of `keys` but those that are in `present`, if these.
        """
        self._foreseen = self._base.held(present)
        self._known.update(dict.fromkeys(key for key in keys if key not in self._foreseen))

    def node(self, path: bytes) -> bytes | None:
        """Return the trie node below: writes reach the trie only when a block is complete."""
        return self._base.node(path)

    def nodes_at(self, paths: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the trie nodes below."""
        return self._base.nodes_at(paths)

    def read(self, key: bytes, kind: type[T]) -> T | None:
        """Return the value under `key`, a `kind` or None."""
        value = self._known.get(key, _UNKNOWN)
        if value is _UNKNOWN:
            raw = self._foreseen.get(key)
            value = self._known[key] = (
                read_value(self._base, key, kind) if raw is None else _decode_value(key, raw, kind)
            )
        # The prefixes of keys keep the kinds apart.
        return value  # type: ignore[return-value]

    def write(self, key: bytes, value: Canonical) -> None:
        """Set the value under `key`."""
        self._known[key] = self._written[key] = value

    def take(self, attempt: "Attempt") -> None:
        """Write here what was written in `attempt`, which is on this one."""
        self._known.update(attempt._written)
        self._written.update(attempt._written)

    def written(self, but: Container[bytes] = ()) -> dict[bytes, bytes]:
        """Return what was written here, encoded, in the order of first writing.

        Without what has a key in `but`.
        """
        values = {key: value for key, value in self._written.items() if key not in but}
        return dict(zip(values, encode_each(values.values()), strict=True))


class Attempt(Overlay):
    """The writes of one transaction on an overlay, which takes them, or they are dropped.

    What it reads is remembered by the overlay below.
    """

    __slots__ = ("_below",)

    def __init__(self, below: Overlay) -> None:
        super().__init__(below)
        self._below = below

    def read(self, key: bytes, kind: type[T]) -> T | None:
        """Return the value under `key`, a `kind` or None."""
        value = self._written.get(key)
        return self._below.read(key, kind) if value is None else value  # type: ignore[return-value]

    def write(self, key: bytes, value: Canonical) -> None:
        """Set the value under `key`."""
        self._written[key] = value


def members(state: StateReader) -> tuple[Institution, ...]:
    """Return the member institutions, sorted by id."""
    value = read_value(state, MEMBERS_KEY, Members)
    if value is None:
        raise StateError("The state holds no members: it was not made from a genesis file.")
    return value.institutions


def party_of(state: StateReader, member_ids: dict[bytes, str], key: bytes) -> Party | None:
    """Return who speaks with `key`: a member (`member_ids` by key), a person, or nobody known."""
    member = member_ids.get(key)
    if member is not None:
        return InstitutionParty(member)
    person = person_id(key)
    return None if chain_head(state, person) is None else PersonParty(person)
