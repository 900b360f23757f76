"""Commitments to files: any chunking gives the same one, and any change of the data shows."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

import ledger.fingerprint
from ledger.fingerprint import (
    SEGMENT_BYTES_MIN,
    SEGMENTS_MAX,
    SIDECAR_BYTES_MAX,
    Fingerprinter,
    FingerprintError,
    Opening,
    Sidecar,
    check_data,
    commitment,
    decode_sidecar,
    encode_sidecar,
    segment_bytes_of,
)
from ledger.state import record_id
from primitives.codec import encode
from primitives.hashing import digest
from primitives.merkle import tree_root

SALT = bytes(range(32))


@pytest.fixture(autouse=True, scope="module")
def small_segments() -> Iterator[None]:
    """Segments of 8 bytes, at most 4 of them: then they double."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger.fingerprint, "SEGMENT_BYTES_MIN", 8)
        patch.setattr(ledger.fingerprint, "SEGMENTS_MAX", 4)
        yield


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def opening_of(data: bytes, places: Iterable[int] = ()) -> Opening:
    fingerprinter = Fingerprinter(len(data))
    for chunk in cut(data, places):
        fingerprinter.update(chunk)
    return fingerprinter.finish(SALT)


files = st.binary(max_size=100)
places = st.lists(st.integers(0, 100), max_size=8)


@given(files, places)
def test_the_commitment_is_as_documented(data: bytes, where: list[int]) -> None:
    opening = opening_of(data, where)
    size = 8
    while size * 4 < len(data):
        size *= 2
    segments = [data[i : i + size] for i in range(0, len(data), size)]
    assert opening == Opening(
        SALT, len(data), size, tuple(blake3(segment).digest() for segment in segments)
    )
    inner = encode((len(data), size, tree_root(opening.segments)))
    assert commitment(opening) == digest("commitment", SALT + inner)
    check_data(opening, cut(data, reversed(where)))


@given(files, st.integers(0, 99), st.integers(1, 255), places)
def test_any_changed_byte_is_found_and_placed(
    data: bytes, position: int, mask: int, where: list[int]
) -> None:
    data += b"."
    position %= len(data)
    opening = opening_of(data)
    changed = bytearray(data)
    changed[position] ^= mask
    segment = position // opening.segment_bytes
    reason = f"differs in segment {segment + 1} of {len(opening.segments)}, between the bytes "
    reason += f"{segment * opening.segment_bytes} and "
    with pytest.raises(FingerprintError, match=reason):
        check_data(opening, cut(bytes(changed), where))


@given(files, files, places)
def test_another_size_is_said(data: bytes, extra: bytes, where: list[int]) -> None:
    longer = data + extra + b"."
    with pytest.raises(FingerprintError, match=f"more than {len(data)} bytes"):
        check_data(opening_of(data), cut(longer, where))
    with pytest.raises(FingerprintError, match=f"has {len(data)} bytes and not {len(longer)}"):
        check_data(opening_of(longer), cut(data, where))


def test_the_empty_file() -> None:
    opening = opening_of(b"")
    assert opening.segments == ()
    check_data(opening, [])
    check_data(opening, [b"", b""])
    with pytest.raises(FingerprintError, match="more than 0 bytes"):
        check_data(opening, [b"x"])
    assert commitment(opening) != commitment(opening_of(b"\x00"))


def test_the_salt_hides_the_content() -> None:
    one = Fingerprinter(0).finish(SALT)
    other = Fingerprinter(0).finish(bytes(32))
    assert commitment(one) != commitment(other)


def test_memory_is_bounded_by_the_number_of_segments() -> None:
    fingerprinter = Fingerprinter(10_000)
    for _ in range(1_000):
        fingerprinter.update(bytes(10))
    assert len(fingerprinter.segments) <= 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 5), ("size", 100), ("segment_bytes", 16), ("segments", ()), ("size", 2**63 - 1)],
)
def test_an_opening_that_fits_no_file_is_refused(name: str, value: Any) -> None:
    opening = opening_of(bytes(20))
    fields = {key: getattr(opening, key) for key in opening.__struct_fields__}
    with pytest.raises(FingerprintError, match="the opening was changed"):
        commitment(Opening(**{**fields, name: value}))


def sidecar_of(data: bytes) -> Sidecar:
    opening = opening_of(data)
    return Sidecar(1, record_id("hospital-0", commitment(opening)), "hospital-0", opening)


@given(files)
def test_a_sidecar_survives_its_file(data: bytes) -> None:
    sidecar = sidecar_of(data)
    assert decode_sidecar(encode_sidecar(sidecar)) == sidecar


def test_every_flipped_bit_of_a_sidecar_is_refused() -> None:
    raw = encode_sidecar(sidecar_of(bytes(30)))
    for position in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(FingerprintError):
            decode_sidecar(bytes(changed))


@given(st.binary(max_size=200))
def test_garbage_is_not_a_sidecar(raw: bytes) -> None:
    with pytest.raises(FingerprintError, match="not a sidecar"):
        decode_sidecar(raw)


def test_a_sidecar_of_another_version_is_named() -> None:
    sidecar = sidecar_of(b"")
    newer = Sidecar(2, sidecar.record, sidecar.custodian, sidecar.opening)
    with pytest.raises(FingerprintError, match="has version 2; this program reads 1"):
        decode_sidecar(encode_sidecar(newer))


class TestRealSizes:
    @pytest.fixture(autouse=True)
    def real_segments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger.fingerprint, "SEGMENT_BYTES_MIN", SEGMENT_BYTES_MIN)
        monkeypatch.setattr(ledger.fingerprint, "SEGMENTS_MAX", SEGMENTS_MAX)

    @pytest.mark.parametrize(
        ("size", "segment_bytes"),
        [
            (0, 2**20),
            (2**36, 2**20),
            (2**36 + 1, 2**21),
            (2**37, 2**21),
            (2**63 - 1, 2**47),
        ],
    )
    def test_segments_grow_with_the_file(self, size: int, segment_bytes: int) -> None:
        assert segment_bytes_of(size) == segment_bytes
        assert -(-size // segment_bytes) <= SEGMENTS_MAX

    def test_three_segments(self) -> None:
        data = bytes(range(256)) * (2**20 // 256) * 2 + b"end"
        fingerprinter = Fingerprinter(len(data))
        for start in range(0, len(data), 300_001):
            fingerprinter.update(data[start : start + 300_001])
        opening = fingerprinter.finish(SALT)
        assert len(opening.segments) == 3
        with pytest.raises(
            FingerprintError, match="segment 3 of 3, between the bytes 2097152 and 2097155"
        ):
            check_data(opening, [data[:-1] + b"X"])

    def test_the_largest_sidecar_fits_its_limit(self) -> None:
        opening = Opening(SALT, 2**63 - 1, 2**47, (bytes([255]) * 32,) * SEGMENTS_MAX)
        record = record_id("h" * 32, commitment(opening))
        sidecar = Sidecar(1, record, "h" * 32, opening)
        raw = encode_sidecar(sidecar)
        assert len(raw) <= SIDECAR_BYTES_MAX
        assert decode_sidecar(raw) == sidecar
