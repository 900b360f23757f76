"""Merkle trees against a naive reading of RFC 6962 section 2.1, and proofs that must not hold."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.codec import UINT_MAX, CodecError, decode, encode
from primitives.hashing import digest
from primitives.merkle import (
    EMPTY_ROOT,
    PATH_LENGTH_MAX,
    InclusionProof,
    MerkleError,
    check,
    inclusion_proof,
    leaf_hash,
    node_hash,
    prove,
    sized_root,
    tree_root,
    verify_inclusion,
    verify_sized_inclusion,
)

leaf_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*naive_path(index, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), naive_root(leaves[:k])]


def numbered(size: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(size)]


@given(leaf_lists)
def test_root_and_paths_are_those_of_the_rfc(leaves: list[bytes]) -> None:
    root = tree_root(leaves)
    assert root == naive_root(leaves)
    for index, leaf in enumerate(leaves):
        path = inclusion_proof(leaves, index)
        assert list(path) == naive_path(index, leaves)
        verify_inclusion(leaf, index, len(leaves), path, root)


def test_every_size_up_to_65_proves_every_leaf() -> None:
    for size in range(1, 66):
        leaves = numbered(size)
        root = sized_root(leaves)
        for index in range(size):
            check(leaves[index], prove(leaves, index), root)


def test_ten_thousand_leaves() -> None:
    leaves = numbered(10_000)
    root = tree_root(leaves)
    assert root == naive_root(leaves)
    for index in (0, 1, 8191, 8192, 9998, 9999):
        verify_inclusion(leaves[index], index, 10_000, inclusion_proof(leaves, index), root)


def test_the_empty_tree() -> None:
    assert tree_root([]) == EMPTY_ROOT == hashlib.sha256(b"").digest()
    assert sized_root([]) == digest("tree", bytes(8) + EMPTY_ROOT)
    for index in (0, -1):
        with pytest.raises(MerkleError, match="outside a tree of 0 leaves"):
            inclusion_proof([], index)
        with pytest.raises(MerkleError, match="outside a tree of 0 leaves"):
            verify_inclusion(b"", index, 0, (), EMPTY_ROOT)


def test_leaves_and_nodes_are_told_apart() -> None:
    a, b = b"a", b"b"
    assert leaf_hash(a) == hashlib.sha256(b"\x00a").digest()
    forged_leaf = leaf_hash(a) + leaf_hash(b)
    assert node_hash(leaf_hash(a), leaf_hash(b)) == tree_root([a, b])
    assert tree_root([forged_leaf]) != tree_root([a, b])


def test_an_odd_leaf_is_not_duplicated() -> None:
    for size in range(1, 20, 2):
        leaves = numbered(size)
        assert tree_root([*leaves, leaves[-1]]) != tree_root(leaves)


@given(leaf_lists, st.data())
def test_a_proof_holds_for_its_leaf_index_and_size_only(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root = sized_root(leaves)
    proof = prove(leaves, index)
    other_index = data.draw(st.integers(-2, 200).filter(lambda other: other != index))
    other_size = data.draw(st.integers(0, 300).filter(lambda other: other != len(leaves)))
    with pytest.raises(MerkleError):
        verify_sized_inclusion(leaves[index], index, other_size, proof.path, root)
    with pytest.raises(MerkleError):
        verify_sized_inclusion(leaves[index] + b"!", index, len(leaves), proof.path, root)
    with pytest.raises(MerkleError):
        verify_sized_inclusion(leaves[index], index, len(leaves), proof.path, bytes(32))
    # Where equal leaves lie side by side, one path can be right for two indexes.
    if not 0 <= other_index < len(leaves) or leaves[other_index] != leaves[index]:
        with pytest.raises(MerkleError):
            verify_sized_inclusion(leaves[index], other_index, len(leaves), proof.path, root)


@given(leaf_lists.filter(lambda leaves: len(leaves) > 1), st.data())
def test_any_changed_bit_of_a_path_is_found(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = list(inclusion_proof(leaves, index))
    step = data.draw(st.integers(0, len(path) - 1))
    bit = data.draw(st.integers(0, 255))
    path[step] = (int.from_bytes(path[step], "big") ^ 1 << bit).to_bytes(32, "big")
    with pytest.raises(MerkleError, match="another root"):
        verify_inclusion(leaves[index], index, len(leaves), path, tree_root(leaves))


def test_a_path_can_fit_two_sizes_and_the_sized_root_tells_them_apart() -> None:
    leaves = numbered(3)
    path = inclusion_proof(leaves, 0)
    verify_inclusion(leaves[0], 0, 3, path, tree_root(leaves))
    verify_inclusion(leaves[0], 0, 4, path, tree_root(leaves))
    verify_sized_inclusion(leaves[0], 0, 3, path, sized_root(leaves))
    with pytest.raises(MerkleError, match="index, size, path or root was changed"):
        verify_sized_inclusion(leaves[0], 0, 4, path, sized_root(leaves))


def test_the_reasons_are_exact() -> None:
    leaves = numbered(5)
    root = tree_root(leaves)
    path = inclusion_proof(leaves, 1)
    with pytest.raises(MerkleError, match=r"Index 5 is outside a tree of 5 leaves\."):
        verify_inclusion(leaves[1], 5, 5, path, root)
    with pytest.raises(MerkleError, match=r"Index -1 is outside a tree of 5 leaves\."):
        verify_inclusion(leaves[1], -1, 5, path, root)
    with pytest.raises(MerkleError, match="too short: leaf 1 of 5 needs 3 hashes, not 2"):
        verify_inclusion(leaves[1], 1, 5, path[:-1], root)
    with pytest.raises(MerkleError, match="too long: leaf 1 of 5 needs 3 hashes, not 4"):
        verify_inclusion(leaves[1], 1, 5, (*path, path[0]), root)
    with pytest.raises(MerkleError, match="Hash 1 of the path has 31 bytes, not 32"):
        verify_inclusion(leaves[1], 1, 5, (path[0], path[1][:-1], path[2]), root)
    with pytest.raises(MerkleError, match="another root"):
        verify_inclusion(leaves[2], 1, 5, path, root)
    # The promoted last leaf needs one hash only.
    with pytest.raises(MerkleError, match="too long: leaf 4 of 5 needs 1 hashes, not 3"):
        verify_inclusion(leaves[4], 4, 5, path, root)


def test_sizes_beyond_any_tree_are_refused_at_once() -> None:
    with pytest.raises(MerkleError, match=f"too short.*needs {PATH_LENGTH_MAX} hashes"):
        verify_sized_inclusion(b"", 0, UINT_MAX, (), bytes(32))
    for size in (UINT_MAX + 1, 2**64, 2**5000):
        with pytest.raises(MerkleError, match="larger than any can be"):
            verify_sized_inclusion(b"", 0, size, (), bytes(32))


@given(leaf_lists, st.data())
def test_proofs_travel(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = decode(encode(prove(leaves, index)), InclusionProof, bytes_max=3000)
    assert (proof.index, proof.size) == (index, len(leaves))
    check(leaves[index], proof, sized_root(leaves))


def test_a_proof_has_no_more_hashes_than_any_tree_needs() -> None:
    longest = InclusionProof(0, UINT_MAX, (bytes(32),) * PATH_LENGTH_MAX)
    assert decode(encode(longest), InclusionProof, bytes_max=3000) == longest
    with pytest.raises(CodecError):
        decode(
            encode(InclusionProof(0, UINT_MAX, (bytes(32),) * (PATH_LENGTH_MAX + 1))),
            InclusionProof,
            bytes_max=3000,
        )
