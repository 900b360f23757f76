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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Annotated, Final

import msgspec

from ledger.state import StateError
from ledger.store import StateChanges, StateReader
from primitives.codec import Canonical
from primitives.hashing import DIGEST_BYTES, digest, digests, midstate

DEPTH_MAX: Final = 2 * DIGEST_BYTES
"""Nibbles in a path."""
BRANCH_BYTES_MAX: Final = 4 + 16 * 2 * DIGEST_BYTES
_BITMAPS: Final = struct.Struct(">HH")
_EMPTY_BRANCH: Final = bytes(4)
_LEAF_BYTES: Final = 2 * DIGEST_BYTES
_NIBBLES: Final = bytes(int(chr(c), 16) if chr(c) in "0123456789abcdef" else 0 for c in range(256))

FORESEEN_MIN: Final = 32
"""Fewer keys are not looked for together."""
FORESEEN_DEPTH_MIN: Final = 3
"""Nor are keys of a map whose keys end higher up: it has few nodes, and is soon read one by one."""
DEPTHS_TRIED: Final = 8
"""Keys by which it is found out how far down the keys of a map end."""

Branch = tuple[bytes, int, int]
"""Its bytes, and its bitmaps: which slots are used, and which of them are leaves."""

_NIBBLE: Final = tuple(bytes([nibble]) for nibble in range(16))
_BIT: Final = tuple(1 << nibble for nibble in range(16))
_BELOW: Final = tuple(bit - 1 for bit in _BIT)


class ProofError(ValueError):
    """A proof that does not hold; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What keys meet in one state map."""

    present: Sequence[bytes]
    """Those that the map holds, and those of which that was not found out."""
    hashes: Mapping[bytes, bytes]
    """Of keys."""
    branches: Mapping[bytes, Branch]
    """Some of those on the keys' ways, by path."""


NOTHING_FORESEEN: Final = Foreseen((), {}, {})


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


def foresee(reader: StateReader, keys: Sequence[bytes]) -> Foreseen:
    """Go down the map of `reader` with all `keys` together, reading each level in one go.

    So whether the map holds a key is known before its value is read: most that a block asks for
    are new. `update` needs the same branches. Raises StateError for one that is malformed.
    """
    if len(keys) < FORESEEN_MIN:
        return Foreseen(keys, {}, {})
    names = list(dict.fromkeys(keys))
    hashes = dict(zip(names, digests("state-key", names), strict=True))
    nibbles = _nibbles(b"".join(hashes.values()))
    paths = [nibbles[start : start + DEPTH_MAX] for start in range(0, len(nibbles), DEPTH_MAX)]
    key_of = dict(zip(paths, names, strict=True))
    present: list[bytes] = []
    branches: dict[bytes, Branch] = {}
    # Of the levels above there are few branches, which all keys share.
    depth = min(_depth(reader, path) for path in paths[:DEPTHS_TRIED])
    if depth < FORESEEN_DEPTH_MIN:
        return Foreseen(keys, hashes, {})
    while paths and depth < DEPTH_MAX:
        read = reader.nodes_at([path[:depth] for path in paths])
        level = {path: _parsed(branch, path) for path, branch in read.items()}
        branches |= level
        lower = []
        for path in paths:
            found = level.get(path[:depth])
            if found is None:
                # It ends above this level; or the branch is lost, which `update` finds.
                present.append(key_of[path])
                continue
            branch, used, leaf = found
            nibble = path[depth]
            bit = _BIT[nibble]
            if leaf & bit:
                key = key_of[path]
                if branch.startswith(hashes[key], _place(used, leaf, _BELOW[nibble])):
                    present.append(key)
            elif used & bit:
                lower.append(path)
        paths = lower
        depth += 1
    return Foreseen(present, hashes, branches)


def _depth(reader: StateReader, path: bytes) -> int:
    """Return the depth of the last branch on the way along `path`."""
    for depth in range(DEPTH_MAX):
        _, used, leaf = _read(reader.node, path[:depth])
        if not used & ~leaf & _BIT[path[depth]]:
            return depth
    return DEPTH_MAX


def update(
    reader: StateReader, values: Mapping[bytes, bytes], foreseen: Foreseen = NOTHING_FORESEEN
) -> StateChanges:
    """Return what changes when `values` are set in the map of `reader`, and the new root.

    All keys go down together, so that a branch which they share is read, hashed and written once;
    what was `foreseen` in this map is neither read nor hashed again. Measured with others on the
    machine: 4 us a key in a map of 20,000 keys.
    """
    others = [key for key in values if key not in foreseen.hashes]
    hashes = dict(zip(others, digests("state-key", others), strict=True))
    hashes.update(foreseen.hashes)
    key_hashes = map(hashes.__getitem__, values)
    leaves = sorted(map(add, key_hashes, digests("state-value", values.values())))
    step = _Step(reader, leaves, foreseen.branches)
    root = step.write(b"", 0, len(leaves))
    return StateChanges(values=values, nodes=step.nodes, root=root)


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
    return _read(reader.node, path)[0]


def _read(node: Callable[[bytes], bytes | None], path: bytes) -> Branch:
    """Return the stored branch at `path`. Raises StateError."""
    return _parsed(node(path), path)


def _parsed(branch: bytes | None, path: bytes) -> Branch:
    """Return what was stored at `path`, None for nothing, as a branch. Raises StateError."""
    if branch is None:
        if path:
            raise StateError(f"The state map has lost its branch at {path.hex()}.")
        return _EMPTY_BRANCH, 0, 0
    try:
        used, leaf = _bitmaps(branch)
    except ValueError as error:
        raise StateError(f"The branch of the state map at {path.hex()} is malformed.") from error
    return branch, used, leaf


def _bitmaps(branch: bytes) -> tuple[int, int]:
    """Return which slots of a branch are used and which of them are leaves.

    Raises ValueError unless it is as long as they say and only slots in use are leaves: the slots
    of one that is longer or shorter would be read at wrong places.
    """
    if len(branch) < 4:
        raise ValueError("a branch without bitmaps")
    used, leaf = _BITMAPS.unpack_from(branch)
    if len(branch) != 4 + 32 * (used.bit_count() + leaf.bit_count()) or leaf & ~used:
        raise ValueError("a branch of another length than its bitmaps say")
    return used, leaf


def _place(used: int, leaf: int, below: int) -> int:
    """Return where the slot begins in a branch that has the bits `below` before it."""
    return 4 + DIGEST_BYTES * ((used & below).bit_count() + (leaf & below).bit_count())


def _slot(branch: bytes, nibble: int) -> bytes:
    """Return what slot `nibble` of `branch` holds: nothing, 64 bytes of a leaf, or a hash."""
    try:
        used, leaf = _bitmaps(branch)
    except ValueError as error:
        raise ProofError("A branch of the state map is malformed.") from error
    bit, below = _BIT[nibble], _BELOW[nibble]
    start = 4 + DIGEST_BYTES * ((used & below).bit_count() + (leaf & below).bit_count())
    if not used & bit:
        return b""
    return branch[start : start + (_LEAF_BYTES if leaf & bit else DIGEST_BYTES)]


class _Step:
    """The way from one map to the next: sorted leaves, and the branches that they change.

    Written for few steps of the interpreter: it is a third of what a block costs. In a large map
    most branches take one leaf of a block; `_write_one` does without recursion for them what
    `write` does.
    """

    __slots__ = ("_begun", "_foreseen", "_leaves", "_nibbles", "_node", "nodes")

    def __init__(
        self, reader: StateReader, leaves: list[bytes], branches: Mapping[bytes, Branch]
    ) -> None:
        self._node = reader.node
        self._foreseen = branches
        self._leaves = leaves
        self._nibbles = _nibbles(b"".join([leaf[:DIGEST_BYTES] for leaf in leaves]))
        self._begun = midstate("state-branch").copy
        self.nodes: dict[bytes, bytes] = {}

    def write(self, path: bytes, first: int, last: int) -> bytes:
        """Put the leaves from `first` to before `last` into the stored branch at `path`.

        Returns its new hash.
        """
        branch, used, leaf = self._foreseen.get(path) or _read(self._node, path)
        later_used, later_leaf = used, leaf
        column = self._nibbles[DEPTH_MAX * first + len(path) : DEPTH_MAX * last : DEPTH_MAX]
        parts = [b""]
        # Where the next part begins that stays as it is.
        kept = 4
        start, count = 0, len(column)
        while start < count:
            nibble = column[start]
            # The leaves are sorted, so those of one slot are beside each other.
            stop = column.rfind(nibble, start) + 1
            slot = self._leaves[first + start]
            bit, below = _BIT[nibble], _BELOW[nibble]
            at = 4 + 32 * ((used & below).bit_count() + (leaf & below).bit_count())
            parts.append(branch[kept:at])
            kept = at
            if leaf & bit:
                kept += _LEAF_BYTES
                if stop > start + 1 or not branch.startswith(slot[:DIGEST_BYTES], at):
                    later_leaf ^= bit
                    group = _joined(self._leaves[first + start : first + stop], branch[at:kept])
                    slot = self._build(path + _NIBBLE[nibble], group)
            elif used & bit:
                kept += DIGEST_BYTES
                if stop == start + 1:
                    slot = self._write_one(path + _NIBBLE[nibble], slot)
                else:
                    slot = self.write(path + _NIBBLE[nibble], first + start, first + stop)
            else:
                later_used |= bit
                if stop == start + 1:
                    later_leaf |= bit
                else:
                    several = self._leaves[first + start : first + stop]
                    slot = self._build(path + _NIBBLE[nibble], several)
            parts.append(slot)
            start = stop
        parts.append(branch[kept:])
        parts[0] = _BITMAPS.pack(later_used, later_leaf)
        changed = self.nodes[path] = b"".join(parts)
        return self._hash(changed)

    def _write_one(self, path: bytes, slot: bytes) -> bytes:
        """Put one leaf, `slot`, into the stored branch at `path`; return its new hash."""
        depth = len(path)
        above = []
        while True:
            branch, used, leaf = self._foreseen.get(path) or _read(self._node, path)
            nibble = slot[depth >> 1] & 15 if depth & 1 else slot[depth >> 1] >> 4
            bit, below = _BIT[nibble], _BELOW[nibble]
            at = 4 + 32 * ((used & below).bit_count() + (leaf & below).bit_count())
            if leaf & bit or not used & bit:
                break
            above.append((path, branch, at))
            path += _NIBBLE[nibble]
            depth += 1
        after = at
        if not used & bit:
            used |= bit
            leaf |= bit
        else:
            after = at + _LEAF_BYTES
            if not branch.startswith(slot[:DIGEST_BYTES], at):
                leaf ^= bit
                old = branch[at:after]
                pair = [slot, old] if slot < old else [old, slot]
                slot = self._build(path + _NIBBLE[nibble], pair)
        changed = self.nodes[path] = (
            _BITMAPS.pack(used, leaf) + branch[4:at] + slot + branch[after:]
        )
        for path, branch, at in reversed(above):
            slot = self._hash(changed)
            changed = self.nodes[path] = branch[:at] + slot + branch[at + DIGEST_BYTES :]
        return self._hash(changed)

    def _build(self, path: bytes, leaves: Sequence[bytes]) -> bytes:
        """Make the branch at `path`, where there is none, of sorted `leaves`; return its hash."""
        depth = len(path)
        byte, shift = depth >> 1, 0 if depth & 1 else 4
        used = leaf = 0
        parts = [b""]
        start, count = 0, len(leaves)
        while start < count:
            slot = leaves[start]
            nibble = slot[byte] >> shift & 15
            stop = start + 1
            while stop < count and leaves[stop][byte] >> shift & 15 == nibble:
                stop += 1
            used |= 1 << nibble
            if stop == start + 1:
                leaf |= 1 << nibble
            else:
                slot = self._build(path + _NIBBLE[nibble], leaves[start:stop])
            parts.append(slot)
            start = stop
        parts[0] = _BITMAPS.pack(used, leaf)
        branch = self.nodes[path] = b"".join(parts)
        return self._hash(branch)

    def _hash(self, branch: bytes) -> bytes:
        """Do what `_branch_hash` does in two calls less."""
        state = self._begun()
        state.update(branch)
        return state.digest()


def _joined(group: list[bytes], old: bytes) -> list[bytes]:
    """Return a sorted `group` with the leaf `old` that it meets, unless one of it replaces that."""
    key_hash = old[:DIGEST_BYTES]
    if any(new.startswith(key_hash) for new in group):
        return group
    return sorted([*group, old])
