"""The authenticated state map: a 16-ary Merkle trie whose root depends on the content alone.

Every key is hashed; the nibbles of its hash are a path. A branch has sixteen slots. A slot is
empty, or holds a leaf (key hash and value hash, inline), or the hash of the branch below. A leaf
sits at the shallowest depth at which no other key shares its path, so the shape, and with it the
root, is a function of the set of keys and not of the order in which they came. There is no
deletion.

A branch is stored under its path, one byte per nibble; the root under b"". Its bytes:

    2 bytes   which slots are used      (bit i, counted from the least significant, is slot i;
    2 bytes   which of them are leaves   big-endian)
    then for every used slot in order: 64 bytes of a leaf, or 32 bytes of a branch hash

and its hash is digest("state-branch", bytes). Both kinds of slot are named by the bitmaps inside
what is hashed, so neither passes for the other. Sixteen-ary because a Python node pays per hash
call rather than per byte: at a million keys a path is five or six branches. A proof is simply the
branches from the root down, which serves inclusion and absence alike (docs/protocol.md).
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from ledger.state import StateError
from ledger.store import StateChanges, StateReader
from primitives.codec import Canonical
from primitives.hashing import DIGEST_BYTES, digest

DEPTH_MAX: Final = 2 * DIGEST_BYTES
"""Nibbles in a path."""
BRANCH_BYTES_MAX: Final = 4 + 16 * 2 * DIGEST_BYTES
_EMPTY_BRANCH: Final = bytes(4)
_LEAF_BYTES: Final = 2 * DIGEST_BYTES
_NIBBLES: Final = bytes(int(chr(c), 16) if chr(c) in "0123456789abcdef" else 0 for c in range(256))

# A leaf on its way down: the nibbles of its key hash, and key hash || value hash.
_Leaf = tuple[bytes, bytes]


class ProofError(ValueError):
    """A proof that does not hold; the message says what is wrong with it."""


class MapProof(Canonical, frozen=True):
    """The branches from the root to where a key is, or would be."""

    branches: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=BRANCH_BYTES_MAX)], ...],
        msgspec.Meta(max_length=DEPTH_MAX),
    ]


def _branch_hash(branch: bytes) -> bytes:
    return digest("state-branch", branch)


EMPTY_STATE_ROOT: Final = _branch_hash(_EMPTY_BRANCH)
"""The root of a map without keys."""


def update(reader: StateReader, values: Mapping[bytes, bytes]) -> StateChanges:
    """Return what changes when `values` are set in the map of `reader`, and the new root.

    All keys go down together, so that a branch which they share is read, hashed and written once.
    Measured: 10 us a key in a map of 20,000 keys, 15 of 200,000, 21 of a million.
    """
    leaves = []
    for key, value in values.items():
        key_hash = digest("state-key", key)
        leaf = key_hash + digest("state-value", value)
        leaves.append((_nibbles(key_hash), leaf))
    leaves.sort()
    nodes: dict[bytes, bytes] = {}
    root = _write(reader, nodes, b"", leaves, False)
    return StateChanges(values=values, nodes=nodes, root=root)


def prove_value(reader: StateReader, key: bytes) -> MapProof:
    """Return the proof of what the map of `reader` holds under `key`, or that it holds nothing."""
    nibbles = _nibbles(digest("state-key", key))
    branches = [_stored_branch(reader, b"")]
    while (slot := _slot(branches[-1], nibbles[len(branches) - 1])) and len(slot) == DIGEST_BYTES:
        branches.append(_stored_branch(reader, nibbles[: len(branches)]))
    return MapProof(tuple(branches))


def check_value(proof: MapProof, key: bytes, value: bytes | None, root: bytes) -> None:
    """Raise ProofError unless the map of `root` holds `value` under `key` (None: holds nothing)."""
    key_hash = digest("state-key", key)
    nibbles = _nibbles(key_hash)
    expected = root
    slot = b""
    for depth, branch in enumerate(proof.branches):
        if depth and len(slot) != DIGEST_BYTES:
            raise ProofError("The state proof goes on below the place where its key ends.")
        if _branch_hash(branch) != expected:
            raise ProofError(
                f"Branch {depth} of the state proof does not belong to the state root: "
                "the proof or the root was changed."
            )
        slot = _slot(branch, nibbles[depth])
        expected = slot
    if not proof.branches or len(slot) == DIGEST_BYTES:
        raise ProofError("The state proof ends before the place of its key.")
    found = slot if slot[:DIGEST_BYTES] == key_hash else b""
    if value is None and found:
        raise ProofError("The state proof shows a value where it should show none.")
    if value is not None and found != key_hash + digest("state-value", value):
        raise ProofError(
            "The state proof shows another value." if found else "The state proof shows no value."
        )


def _nibbles(key_hash: bytes) -> bytes:
    return key_hash.hex().encode().translate(_NIBBLES)


def _stored_branch(reader: StateReader, path: bytes) -> bytes:
    branch = reader.node(path)
    if branch is None:
        if path:
            raise StateError(f"The state map has lost its branch at {path.hex()}.")
        return _EMPTY_BRANCH
    used = int.from_bytes(branch[:2], "big")
    leaf = int.from_bytes(branch[2:4], "big")
    # A branch that is longer or shorter than it says would have its slots read at wrong places.
    if leaf & ~used or len(branch) != 4 + DIGEST_BYTES * (used.bit_count() + leaf.bit_count()):
        raise StateError(f"The branch of the state map at {path.hex()} is malformed.")
    return branch


def _slot(branch: bytes, nibble: int) -> bytes:
    """Return what slot `nibble` of `branch` holds: nothing, 64 bytes of a leaf, or a hash."""
    used = int.from_bytes(branch[:2], "big")
    leaf = int.from_bytes(branch[2:4], "big")
    bit = 1 << nibble
    below = bit - 1
    start = 4 + DIGEST_BYTES * ((used & below).bit_count() + (leaf & below).bit_count())
    if not used & bit:
        return b""
    slot = branch[start : start + (_LEAF_BYTES if leaf & bit else DIGEST_BYTES)]
    if leaf & ~used or len(branch) != 4 + DIGEST_BYTES * (used.bit_count() + leaf.bit_count()):
        raise ProofError("A branch of the state map is malformed.")
    return slot


def _write(
    reader: StateReader, nodes: dict[bytes, bytes], path: bytes, leaves: list[_Leaf], new: bool
) -> bytes:
    """Put sorted `leaves` into the branch at `path` (`new`: not stored yet); return its hash."""
    branch = _EMPTY_BRANCH if new else _stored_branch(reader, path)
    used = branch[0] << 8 | branch[1]
    leaf = branch[2] << 8 | branch[3]
    slots = branch[4:]
    depth = len(path)
    stop = len(leaves)
    # From the last slot to the first, so that a change of width moves nothing that is still to do.
    while stop:
        nibble = leaves[stop - 1][0][depth]
        start = stop - 1
        while start and leaves[start - 1][0][depth] == nibble:
            start -= 1
        group = leaves[start:stop]
        stop = start

        bit = 1 << nibble
        below = bit - 1
        at = DIGEST_BYTES * ((used & below).bit_count() + (leaf & below).bit_count())
        width = 0
        is_branch = False
        if leaf & bit:
            width = _LEAF_BYTES
            _join(group, slots[at : at + width])
        elif used & bit:
            width = DIGEST_BYTES
            is_branch = True
        if is_branch or len(group) > 1:
            slot = _write(reader, nodes, group[0][0][: depth + 1], group, not is_branch)
            leaf &= ~bit
        else:
            slot = group[0][1]
            leaf |= bit
        used |= bit
        slots = slots[:at] + slot + slots[at + width :]
    branch = (used << 16 | leaf).to_bytes(4, "big") + slots
    nodes[path] = branch
    return _branch_hash(branch)


def _join(group: list[_Leaf], old: bytes) -> None:
    """Add the leaf `old` to a sorted `group` that meets it, unless one of the group replaces it."""
    key_hash = old[:DIGEST_BYTES]
    for _, new in group:
        if new.startswith(key_hash):
            return
    group.append((_nibbles(key_hash), old))
    group.sort()
