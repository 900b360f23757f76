"""Tagged hashing: the construction, and that domains never meet."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from primitives.hashing import DIGEST_BYTES, ZERO_DIGEST, digest, digests


@given(st.text("abcdefgh-", max_size=12), st.binary(max_size=300))
def test_the_digest_is_the_tagged_hash_of_bip_340(domain: str, data: bytes) -> None:
    tag = hashlib.sha256(b"medpact/" + domain.encode("ascii")).digest()
    expected = hashlib.sha256(tag + tag + data).digest()
    # Twice: first with a fresh midstate, then with the kept one.
    assert digest(domain, data) == expected
    assert digest(domain, data) == expected


@given(st.text("abcdefgh-", max_size=12), st.lists(st.binary(max_size=100)))
def test_many_digests_are_those_of_each(domain: str, items: list[bytes]) -> None:
    assert digests(domain, items) == [digest(domain, data) for data in items]


def test_the_same_bytes_in_two_domains_have_two_digests() -> None:
    data = b"the same bytes"
    found = {digest(domain, data) for domain in ("header", "tree", "head", "er", "", "medpact/")}
    found.add(hashlib.sha256(data).digest())
    assert len(found) == 7


def test_the_zero_digest_has_the_length_of_a_digest() -> None:
    assert bytes(32) == ZERO_DIGEST
    assert len(digest("header", b"")) == DIGEST_BYTES
