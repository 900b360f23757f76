"""The authenticated state map against a naive model of it, and its proofs against every change."""

from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ledger.trie
from ledger.state import EmptyState, StateError
from ledger.trie import (
    EMPTY_STATE_ROOT,
    MapProof,
    ProofError,
    check_value,
    foresee,
    prove_value,
    update,
)
from primitives.codec import decode, encode
from primitives.hashing import digest
from tests.ledger.world import MemoryStore

Content = dict[bytes, bytes]
contents = st.dictionaries(st.binary(max_size=8), st.binary(max_size=8), max_size=60)


def key_hash(key: bytes) -> bytes:
    hashed: Callable[[str, bytes], bytes] = vars(ledger.trie)["digest"]
    return hashed("state-key", key)


def naive_root(content: Content) -> bytes:
    """The root as the documentation defines it: split by nibble until every leaf is alone."""
    leaves = sorted((key_hash(k), digest("state-value", v)) for k, v in content.items())

    def branch(inside: list[tuple[bytes, bytes]], depth: int) -> bytes:
        used = leaf = 0
        slots = b""
        for nibble in range(16):
            here = [one for one in inside if one[0].hex()[depth] == f"{nibble:x}"]
            if here:
                used |= 1 << nibble
            if len(here) == 1:
                leaf |= 1 << nibble
                slots += here[0][0] + here[0][1]
            elif here:
                slots += branch(here, depth + 1)
        return digest("state-branch", used.to_bytes(2, "big") + leaf.to_bytes(2, "big") + slots)

    return branch(leaves, 0)


def stored(*steps: Content) -> tuple[MemoryStore, bytes]:
    store = MemoryStore()
    root = EMPTY_STATE_ROOT
    for step in steps:
        changes = update(store, step)
        store.values.update(changes.values)
        store.nodes.update(changes.nodes)
        root = changes.root
    return store, root


@pytest.fixture
def shallow_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key hashes that share long prefixes, as no test could find them by hashing."""

    def hashed(domain: str, data: bytes) -> bytes:
        return data.ljust(32, b"\x00") if domain == "state-key" else digest(domain, data)

    def all_hashed(domain: str, items: Iterable[bytes]) -> list[bytes]:
        return [hashed(domain, data) for data in items]

    monkeypatch.setattr(ledger.trie, "digest", hashed)
    monkeypatch.setattr(ledger.trie, "digests", all_hashed)


def test_empty_map() -> None:
    assert update(EmptyState(), {}).root == EMPTY_STATE_ROOT == naive_root({})


@given(contents, contents)
def test_root_depends_on_the_content_alone(first: Content, second: Content) -> None:
    content = first | second
    assert stored(first, second)[1] == stored(content)[1] == naive_root(content)
    assert stored(second, content)[1] == naive_root(content)


@given(contents)
def test_order_and_batching_do_not_matter(content: Content) -> None:
    singly = stored(*({key: content[key]} for key in reversed(list(content))))
    assert singly[1] == stored(content)[1]
    assert not content or singly[0].nodes == stored(content)[0].nodes


close_keys = st.lists(st.sampled_from([b"\x00", b"\x01", b"\x10"]), max_size=4).map(
    lambda parts: b"".join(parts) + b"\xff"
)


@pytest.mark.usefixtures("shallow_keys")
def test_long_common_prefixes() -> None:
    deepest = [bytes(31) + b"\x00", bytes(31) + b"\x01", bytes(31) + b"\x10"]

    @given(st.dictionaries(close_keys, st.binary(max_size=2)), st.sampled_from(deepest))
    def check(content: Content, key: bytes) -> None:
        content = content | {key: b"deep", deepest[0]: b"deepest"}
        store, root = stored(*({key: value} for key, value in content.items()))
        assert root == stored(content)[1] == naive_root(content)
        for known, value in content.items():
            check_value(prove_value(store, known), known, value, root)
        absent = bytes(31) + b"\x02"
        check_value(prove_value(store, absent), absent, None, root)

    check()


@pytest.fixture
def always_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few keys in a small map are looked for together as well."""
    monkeypatch.setattr(ledger.trie, "FORESEEN_MIN", 1)
    monkeypatch.setattr(ledger.trie, "FORESEEN_DEPTH_MIN", 0)


def check_foreseen(content: Content, asked: list[bytes], later: Content) -> None:
    store, _ = stored(content)
    foreseen = foresee(store, asked)
    # A key that is there is never taken for absent.
    assert [key for key in asked if key in content and key not in foreseen.present] == []
    assert update(store, later, foreseen) == update(store, later)


@pytest.mark.usefixtures("always_foreseen")
def test_what_is_foreseen_changes_nothing() -> None:
    @given(contents, st.lists(st.binary(max_size=8), max_size=60), contents)
    def check(content: Content, others: list[bytes], later: Content) -> None:
        check_foreseen(content, [*list(content)[::2], *others, *list(later)[::2], *others], later)

    check()


@pytest.mark.usefixtures("shallow_keys", "always_foreseen")
def test_what_is_foreseen_far_down_changes_nothing() -> None:
    close = st.dictionaries(close_keys, st.binary(max_size=2), max_size=20)
    deepest = {bytes(31) + b"\x00": b"deep", bytes(31) + b"\x01": b"deep"}

    @given(close, close)
    def check(content: Content, later: Content) -> None:
        check_foreseen(content | deepest, [*later, *content, *deepest], later)

    check()


def test_new_keys_are_known_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.trie, "FORESEEN_DEPTH_MIN", 0)
    store, _ = stored({b"%d" % number: b"" for number in range(3_000)})
    new = [b"new %d" % number for number in range(500)]
    assert foresee(store, new).present == []
    some = [b"%d" % number for number in range(0, 3_000, 7)]
    assert sorted(foresee(store, [*some, *new]).present) == sorted(some)
    # So few, or a map with so few nodes, are not worth it.
    assert foresee(store, new[:9]).present == new[:9]
    monkeypatch.undo()
    assert foresee(store, new).present == new


def test_unchanged_branches_are_not_written() -> None:
    content = {b"%d" % number: b"" for number in range(1_000)}
    store, root = stored(content)
    changes = update(store, {b"0": b"new"})
    assert 1 < len(changes.nodes) <= 4
    assert changes.root != root
    assert update(store, {}).root == root


@given(contents, st.binary(max_size=8))
def test_proofs_of_value_and_absence(content: Content, key: bytes) -> None:
    store, root = stored(content)
    for asked in [key, *content]:
        proof = prove_value(store, asked)
        assert decode(encode(proof), MapProof, bytes_max=100_000) == proof
        check_value(proof, asked, content.get(asked), root)


@given(contents, st.binary(max_size=8), st.binary(max_size=8))
def test_a_false_claim_is_refused(content: Content, key: bytes, value: bytes) -> None:
    store, root = stored(content)
    for asked in [key, *content]:
        for claim in (value, None):
            if claim != content.get(asked):
                with pytest.raises(ProofError):
                    check_value(prove_value(store, asked), asked, claim, root)


def mutations(proof: MapProof) -> Iterator[MapProof]:
    branches = proof.branches
    for number, branch in enumerate(branches):
        for position in range(len(branch)):
            changed = bytearray(branch)
            changed[position] ^= 0x01
            yield MapProof((*branches[:number], bytes(changed), *branches[number + 1 :]))
        yield MapProof((*branches[:number], branch + b"\x00", *branches[number + 1 :]))
        yield MapProof(branches[:number] + branches[number + 1 :])
        yield MapProof((*branches[:number], branch, *branches[number:]))
    yield MapProof((*branches, bytes(4)))


def test_every_change_of_a_proof_is_refused() -> None:
    content = {b"%d" % number: b"v" for number in range(300)}
    store, root = stored(content)
    for key, value in ((b"7", b"v"), (b"absent", None), (b"absent too", None)):
        for changed in mutations(prove_value(store, key)):
            with pytest.raises(ProofError):
                check_value(changed, key, value, root)


def test_messages_say_what_is_wrong() -> None:
    store, root = stored({b"%d" % number: b"v" for number in range(100)})
    proof = prove_value(store, b"7")
    with pytest.raises(ProofError, match="shows another value"):
        check_value(proof, b"7", b"w", root)
    with pytest.raises(ProofError, match="shows a value where"):
        check_value(proof, b"7", None, root)
    with pytest.raises(ProofError, match="shows no value"):
        check_value(prove_value(store, b"x"), b"x", b"w", root)
    with pytest.raises(ProofError, match=r"Branch 0 .* does not belong"):
        check_value(proof, b"7", b"v", bytes(32))
    with pytest.raises(ProofError, match="ends before"):
        check_value(MapProof(proof.branches[:-1]), b"7", b"v", root)
    with pytest.raises(ProofError, match="ends before"):
        check_value(MapProof(()), b"7", b"v", root)
    with pytest.raises(ProofError, match="goes on below"):
        check_value(MapProof((*proof.branches, bytes(4))), b"7", b"v", root)


@pytest.mark.parametrize(
    "branch",
    [b"", bytes(3), bytes(5), bytes.fromhex("00010000"), bytes.fromhex("ffffffff") + bytes(100)],
)
def test_a_malformed_branch_under_a_true_root_is_refused(branch: bytes) -> None:
    root = digest("state-branch", branch)
    with pytest.raises(ProofError):
        check_value(MapProof((branch,)), b"key", b"value", root)


def test_a_lost_branch_stops_loudly() -> None:
    store, _ = stored({b"%d" % number: b"v" for number in range(100)})
    lost = next(path for path in store.nodes if len(path) == 1)
    del store.nodes[lost]
    key = next(k for k in store.values if digest("state-key", k)[0] >> 4 == lost[0])
    with pytest.raises(StateError, match="lost its branch"):
        prove_value(store, key)
    with pytest.raises(StateError, match="lost its branch"):
        update(store, {key: b"new"})


@pytest.mark.usefixtures("always_foreseen")
def test_a_branch_that_is_lost_or_malformed_stops_whoever_looks_for_many() -> None:
    content = {b"%d" % number: b"v" for number in range(3_000)}
    store, _ = stored(content)
    lost = max(store.nodes, key=len)
    whole = store.nodes.pop(lost)
    foreseen = foresee(store, list(content))
    # What lies below is asked for by its key, and never taken for absent.
    assert sorted(foreseen.present) == sorted(content)
    with pytest.raises(StateError, match=f"lost its branch at {lost.hex()}"):
        update(store, content, foreseen)
    store.nodes[lost] = whole[:-1]
    with pytest.raises(StateError, match=f"at {lost.hex()} is malformed"):
        foresee(store, list(content))


@pytest.mark.parametrize("branch", [b"", b"\x00\x01\x00\x00", b"\x00\x00\x00\x01" + bytes(64)])
def test_a_stored_branch_that_is_malformed_is_damage(branch: bytes) -> None:
    store = MemoryStore()
    store.nodes[b""] = branch
    for use in (lambda: update(store, {b"key": b"value"}), lambda: prove_value(store, b"key")):
        with pytest.raises(StateError, match="at  is malformed"):
            use()
