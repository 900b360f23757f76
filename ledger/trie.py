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

import struct
from collections.abc import Mapping, Sequence
from operator import add
from typing import Annotated, Final

import msgspec

from ledger.state import StateError
from ledger.store import StateChanges, StateReader
from primitives.codec import Canonical
from primitives.hashing import DIGEST_BYTES, digest, digests

DEPTH_MAX: Final = 2 * DIGEST_BYTES
"""Nibbles in a path."""
BRANCH_BYTES_MAX: Final = 4 + 16 * 2 * DIGEST_BYTES
_BITMAPS: Final = struct.Struct(">HH")
_bitmaps: Final = _BITMAPS.unpack_from
_EMPTY_BRANCH: Final = bytes(4)
_LEAF_BYTES: Final = 2 * DIGEST_BYTES
_NIBBLES: Final = bytes(int(chr(c), 16) if chr(c) in "0123456789abcdef" else 0 for c in range(256))

_NIBBLE: Final = tuple(bytes([nibble]) for nibble in range(16))
# The two bitmaps of a branch read as one integer: a slot has a bit of each.
_BRANCH: Final = 1 << 16
_LEAF: Final = 1
_SLOT: Final = _BRANCH | _LEAF
_BELOW: Final = tuple(_SLOT * ((1 << nibble) - 1) for nibble in range(16))
"""The bits of all slots before a slot: each stands for 32 bytes."""


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
    Measured with others on the machine: 4 us a key in a map of 20,000 keys.
    """
    key_hashes = digests("state-key", values)
    leaves = sorted(map(add, key_hashes, digests("state-value", values.values())))
    nodes: dict[bytes, bytes] = {}
    root = _write(reader, nodes, b"", leaves)
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
        return _missing_branch(path)
    if not _is_whole(branch):
        raise _malformed(path)
    return branch


def _missing_branch(path: bytes) -> bytes:
    if path:
        raise StateError(f"The state map has lost its branch at {path.hex()}.")
    return _EMPTY_BRANCH


def _malformed(path: bytes) -> StateError:
    return StateError(f"The branch of the state map at {path.hex()} is malformed.")


def _is_whole(branch: bytes) -> bool:
    """Whether a branch is as long as its bitmaps say, and has no leaf in a slot without use.

    One that is longer or shorter would have its slots read at wrong places.
    """
    used = int.from_bytes(branch[:2], "big")
    leaf = int.from_bytes(branch[2:4], "big")
    size = 4 + DIGEST_BYTES * (used.bit_count() + leaf.bit_count())
    return len(branch) == size and not leaf & ~used


def _slot(branch: bytes, nibble: int) -> bytes:
    """Return what slot `nibble` of `branch` holds: nothing, 64 bytes of a leaf, or a hash."""
    if not _is_whole(branch):
        raise ProofError("A branch of the state map is malformed.")
    used, leaf = _bitmaps(branch)
    bit = 1 << nibble
    below = bit - 1
    start = 4 + DIGEST_BYTES * ((used & below).bit_count() + (leaf & below).bit_count())
    if not used & bit:
        return b""
    return branch[start : start + (_LEAF_BYTES if leaf & bit else DIGEST_BYTES)]


def _write(
    reader: StateReader, nodes: dict[bytes, bytes], path: bytes, leaves: Sequence[bytes]
) -> bytes:
    """Put sorted `leaves` into the stored branch at `path`; return its new hash."""
    branch = _stored_branch(reader, path)
    bits = later = int.from_bytes(branch[:4], "big")
    byte, shift = _place(path)
    parts = [b""]
    # Where the next part begins that stays as it is.
    kept = 4
    start, count = 0, len(leaves)
    while start < count:
        slot = leaves[start]
        nibble = slot[byte] >> shift & 15
        stop = start + 1
        while stop < count and leaves[stop][byte] >> shift & 15 == nibble:
            stop += 1
        at = 4 + DIGEST_BYTES * (bits & _BELOW[nibble]).bit_count()
        parts.append(branch[kept:at])
        kept = at
        match bits >> nibble & _SLOT:
            case 0:
                later |= _BRANCH << nibble
                if stop == start + 1:
                    later |= _LEAF << nibble
                else:
                    slot = _build(nodes, path + _NIBBLE[nibble], leaves[start:stop])
            case 0x10000:
                kept += DIGEST_BYTES
                below = path + _NIBBLE[nibble]
                if stop == start + 1:
                    slot = _write_one(reader, nodes, below, slot)
                else:
                    slot = _write(reader, nodes, below, leaves[start:stop])
            case _:
                kept += _LEAF_BYTES
                old = branch[at:kept]
                if stop > start + 1 or old[:DIGEST_BYTES] != slot[:DIGEST_BYTES]:
                    later ^= _LEAF << nibble
                    group = _joined(leaves[start:stop], old)
                    slot = _build(nodes, path + _NIBBLE[nibble], group)
        parts.append(slot)
        start = stop
    parts.append(branch[kept:])
    parts[0] = later.to_bytes(4, "big")
    changed = nodes[path] = b"".join(parts)
    return _branch_hash(changed)


def _write_one(reader: StateReader, nodes: dict[bytes, bytes], path: bytes, slot: bytes) -> bytes:
    """Put one leaf, `slot`, into the stored branch at `path`; return its new hash.

    It does what `_write` does, without recursion: in a large map most branches get one leaf of a
    block.
    """
    above = []
    byte, shift = _place(path)
    while True:
        branch = reader.node(path)
        if branch is None:
            branch = _missing_branch(path)
        bits = int.from_bytes(branch[:4], "big")
        if len(branch) != 4 + DIGEST_BYTES * bits.bit_count() or bits & 0xFFFF & ~(bits >> 16):
            raise _malformed(path)
        nibble = slot[byte] >> shift & 15
        at = 4 + DIGEST_BYTES * (bits & _BELOW[nibble]).bit_count()
        held = bits >> nibble & _SLOT
        if held != _BRANCH:
            break
        above.append((path, branch, at))
        path += _NIBBLE[nibble]
        byte += 1 - (shift >> 2)
        shift ^= 4
    if not held:
        bits |= _SLOT << nibble
        changed = bits.to_bytes(4, "big") + branch[4:at] + slot + branch[at:]
    else:
        after = at + _LEAF_BYTES
        old = branch[at:after]
        if old[:DIGEST_BYTES] == slot[:DIGEST_BYTES]:
            changed = branch[:at] + slot + branch[after:]
        else:
            bits ^= _LEAF << nibble
            pair = [slot, old] if slot < old else [old, slot]
            slot = _build(nodes, path + _NIBBLE[nibble], pair)
            changed = bits.to_bytes(4, "big") + branch[4:at] + slot + branch[after:]
    nodes[path] = changed
    for path, branch, at in reversed(above):
        slot = _branch_hash(changed)
        changed = nodes[path] = branch[:at] + slot + branch[at + DIGEST_BYTES :]
    return _branch_hash(changed)


def _build(nodes: dict[bytes, bytes], path: bytes, leaves: Sequence[bytes]) -> bytes:
    """Make the branch at `path`, which is not there yet, of sorted `leaves`; return its hash."""
    byte, shift = _place(path)
    bits = 0
    parts = [b""]
    start, count = 0, len(leaves)
    while start < count:
        slot = leaves[start]
        nibble = slot[byte] >> shift & 15
        stop = start + 1
        while stop < count and leaves[stop][byte] >> shift & 15 == nibble:
            stop += 1
        if stop == start + 1:
            bits |= _SLOT << nibble
        else:
            bits |= _BRANCH << nibble
            slot = _build(nodes, path + _NIBBLE[nibble], leaves[start:stop])
        parts.append(slot)
        start = stop
    parts[0] = bits.to_bytes(4, "big")
    branch = nodes[path] = b"".join(parts)
    return _branch_hash(branch)


def _place(path: bytes) -> tuple[int, int]:
    """Return where in a leaf the nibble below `path` is: in which byte, and how far to its left."""
    depth = len(path)
    return depth >> 1, 0 if depth & 1 else 4


def _joined(group: Sequence[bytes], old: bytes) -> list[bytes]:
    """Return a sorted `group` with the leaf `old` that it meets, unless one of it replaces that."""
    key_hash = old[:DIGEST_BYTES]
    if any(new.startswith(key_hash) for new in group):
        return list(group)
    return sorted([*group, old])
