"""The codec: one value, one encoding, and no exception but CodecError whatever the bytes."""

import enum
import tracemalloc
from datetime import datetime
from typing import Annotated, Any, Literal

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.codec import (
    UINT_MAX,
    VIEW_MAX,
    Canonical,
    CodecError,
    Digest,
    Height,
    InstitutionId,
    Milliseconds,
    PublicKey,
    ShortText,
    SignatureBytes,
    UInt,
    View,
    decode,
    encode,
)

BYTES_MAX = 1_000_000


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Grant(Canonical, frozen=True, tag=1):
    record: Digest
    author: PublicKey
    expires_ms: Milliseconds
    purposes: tuple[ShortText, ...]


class Revoke(Canonical, frozen=True, tag=2):
    record: Digest
    reason: str | None


class Envelope(Canonical, frozen=True):
    height: Height
    view: View
    sender: InstitutionId
    operations: tuple[Grant | Revoke, ...]
    body: bytes
    colour: Colour
    urgent: bool
    signature: SignatureBytes


class Tree(Canonical, frozen=True):
    children: tuple["Tree", ...]


digests = st.binary(min_size=32, max_size=32)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)
uints = st.integers(0, UINT_MAX)
grants = st.builds(
    Grant,
    record=digests,
    author=digests,
    expires_ms=uints,
    purposes=st.lists(texts, max_size=20).map(tuple),
)
revokes = st.builds(
    Revoke, record=digests, reason=st.none() | st.text(st.characters(codec="utf-8"))
)
envelopes = st.builds(
    Envelope,
    height=uints,
    view=st.integers(0, VIEW_MAX),
    sender=st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True),
    operations=st.lists(grants | revokes, max_size=20).map(tuple),
    body=st.binary(max_size=300),
    colour=st.sampled_from(Colour),
    urgent=st.booleans(),
    signature=st.binary(min_size=64, max_size=64),
)
KINDS: list[Any] = [
    Envelope,
    Grant | Revoke,
    Tree,
    tuple[Grant | Revoke, ...],
    tuple[bytes, ...],
    list[tuple[int, str]],
    bytes,
    int,
    str,
    Digest,
    None,
]


def plain(value: Any) -> Any:
    """The same value in lists and scalars, by the rules of docs/protocol.md, for msgpack."""
    match value:
        case Canonical():
            tag = value.__struct_config__.tag
            fields = [plain(getattr(value, name)) for name in value.__struct_fields__]
            return fields if tag is None else [tag, *fields]
        case list() | tuple():
            return [plain(item) for item in value]
        case enum.Enum():
            return value.value
        case _:
            return value


@given(envelopes)
def test_what_is_encoded_is_decoded_and_msgpack_agrees(envelope: Envelope) -> None:
    data = encode(envelope)
    assert data == msgpack.packb(plain(envelope), use_bin_type=True)
    assert decode(data, Envelope, bytes_max=len(data)) == envelope


@given(grants | revokes)
def test_a_tagged_union_gives_back_the_right_struct(operation: Grant | Revoke) -> None:
    decoded = decode(encode(operation), Grant | Revoke, bytes_max=BYTES_MAX)
    assert type(decoded) is type(operation)
    assert decoded == operation


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(st.characters(codec="utf-8"), max_size=70)
    | st.binary(max_size=300)
)


@given(st.recursive(scalars, lambda inner: st.lists(inner, max_size=40), max_leaves=60))
def test_plain_values_are_encoded_as_msgpack_does(value: Any) -> None:
    assert encode(value) == msgpack.packb(value, use_bin_type=True)


@given(envelopes, st.data())
def test_a_changed_byte_is_refused_or_another_value(
    envelope: Envelope, data: st.DataObject
) -> None:
    original = encode(envelope)
    position = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(bytes(changed), Envelope, bytes_max=BYTES_MAX)
    except CodecError:
        return
    assert decoded != envelope
    assert encode(decoded) == changed


@given(envelopes)
def test_truncated_and_trailing_bytes_are_refused(envelope: Envelope) -> None:
    data = encode(envelope)
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(CodecError):
            decode(data[:cut], Envelope, bytes_max=BYTES_MAX)
    for tail in (b"\x00", b"\xc0", data):
        with pytest.raises(CodecError):
            decode(data + tail, Envelope, bytes_max=BYTES_MAX)


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_any_bytes_are_a_canonical_value_or_a_codec_error(data: bytes, kind: Any) -> None:
    try:
        value = decode(data, kind, bytes_max=BYTES_MAX)
    except CodecError:
        return
    assert encode(value) == data


@given(st.recursive(scalars, lambda inner: st.lists(inner, max_size=6)), st.sampled_from(KINDS))
def test_well_formed_values_of_any_shape_are_decoded_or_refused(value: Any, kind: Any) -> None:
    data = msgpack.packb(value, use_bin_type=True)
    try:
        decoded = decode(data, kind, bytes_max=BYTES_MAX)
    except CodecError:
        return
    assert encode(decoded) == data


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xcc\x01", int),  # uint 8 for a fixint
        (b"\xcd\x00\x80", int),  # uint 16 for a uint 8
        (b"\xce\x00\x00\x00\x01", int),
        (b"\xcf" + bytes(7) + b"\x01", int),
        (b"\xd0\x01", int),  # int 8 for a fixint
        (b"\xd3" + bytes(7) + b"\x01", int),
        (b"\xd0\xff", int),  # int 8 for a negative fixint
        (b"\xca\x3f\x80\x00\x00", int),  # the float 1.0
        (b"\xcb\x3f\xf0" + bytes(6), int),
        (b"\xd9\x01a", str),  # str 8 for a fixstr
        (b"\xda\x00\x01a", str),
        (b"\xdb\x00\x00\x00\x01a", str),
        (b"\xc4\x01a", str),  # bytes are not text
        (b"\xa1a", bytes),
        (b"\xc5\x00\x01a", bytes),  # bin 16 for a bin 8
        (b"\xc6\x00\x00\x00\x01a", bytes),
        (b"\xdc\x00\x01\x01", tuple[int, ...]),  # array 16 for a fixarray
        (b"\xdd\x00\x00\x00\x01\x01", tuple[int, ...]),
        (b"\x81\x00\x01", tuple[int, ...]),  # a map
        (b"\xd6\xff\x00\x00\x00\x00", int),  # a timestamp
        (b"\xc1", int),  # never used by the format
        (b"\x01", bool),
        (b"\xc3", int),
        (b"\xc0", int),
        (b"\xa1\xff", str),  # not UTF-8
        (b"\xa3\xed\xa0\x80", str),  # a surrogate
        (b"\xa2\xc0\x80", str),  # an overlong NUL
        (b"", int),
    ],
)
def test_other_encodings_of_a_value_are_refused(data: bytes, kind: Any) -> None:
    with pytest.raises(CodecError):
        decode(data, kind, bytes_max=BYTES_MAX)


def test_the_reasons_tell_what_is_wrong() -> None:
    with pytest.raises(CodecError, match="not canonical"):
        decode(b"\xcc\x01", int, bytes_max=9)
    with pytest.raises(CodecError, match="truncated"):
        decode(b"\xcc", int, bytes_max=9)
    with pytest.raises(CodecError, match="of 2 bytes is refused: the limit here is 1 bytes"):
        decode(b"\xcc\xff", int, bytes_max=1)
    with pytest.raises(CodecError) as caught:
        decode(encode("x" * 10_000), Colour, bytes_max=BYTES_MAX)
    assert len(str(caught.value)) < 300


def test_the_limit_of_bytes_is_inclusive() -> None:
    assert decode(b"\xcc\xff", int, bytes_max=2) == 255


def test_missing_and_added_fields_are_refused() -> None:
    record = bytes(32)
    assert decode(msgpack.packb([2, record, None]), Revoke, bytes_max=99) == Revoke(record, None)
    for fields in ([2, record], [2, record, None, None], [3, record, None], [record, None], []):
        with pytest.raises(CodecError):
            decode(msgpack.packb(fields), Grant | Revoke, bytes_max=99)


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Digest, [bytes(32)], [bytes(31), bytes(33), b""]),
        (PublicKey, [bytes(32)], [bytes(31), bytes(33)]),
        (SignatureBytes, [bytes(64)], [bytes(63), bytes(65)]),
        (UInt, [0, UINT_MAX], [-1, UINT_MAX + 1, 2**64 - 1]),
        (View, [0, VIEW_MAX], [-1, VIEW_MAX + 1]),
        (ShortText, ["a", "\u4e2d" * 256], ["", "a" * 257]),
        (
            InstitutionId,
            ["a", "0", "a-b", "a-", "a" * 32],
            ["", "-a", "A", "a_b", "a" * 33, "a\n", "\na", "a b", "\u0661", "\u00e9"],
        ),
    ],
)
def test_field_types_have_exact_limits(kind: Any, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        assert decode(encode(value), kind, bytes_max=BYTES_MAX) == value
    for value in outside:
        with pytest.raises(CodecError):
            decode(encode(value), kind, bytes_max=BYTES_MAX)


@pytest.mark.parametrize("kind", [Tree, tuple[int, ...], Envelope, list[list[int]]])
@pytest.mark.parametrize("head", [b"\x91", b"\x91\x91", b"\x81", b"\xdc\x00\x01"])
def test_nesting_without_end_is_refused(kind: Any, head: bytes) -> None:
    for tail in (b"", b"\x90", b"\x01"):
        with pytest.raises(CodecError):
            decode(head * 100_000 + tail, kind, bytes_max=BYTES_MAX)


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff" + b"\x01" * 100,
        b"\xdc\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff\x00",
        b"\xdb\xff\xff\xff\xff\x00",
        b"\xc9\xff\xff\xff\xff\x00",
        b"\xdf\xff\xff\xff\xff\x00",
    ],
)
def test_a_huge_declared_length_costs_nothing(data: bytes) -> None:
    kinds: list[Any] = [tuple[int, ...], bytes, str, tuple[Tree, ...], list[int]]
    tracemalloc.start()
    try:
        for kind in kinds:
            with pytest.raises(CodecError):
                decode(data, kind, bytes_max=BYTES_MAX)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_values_without_an_encoding_raise_codec_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for value in (2**64, -(2**63) - 1, "\ud800", nested):
        with pytest.raises(CodecError):
            encode(value)


def test_an_object_of_no_known_type_is_our_own_mistake() -> None:
    with pytest.raises(TypeError):
        encode((object(),))


class WithDefault(Canonical, frozen=True):
    name: str = ""


class Maps(Canonical, frozen=True):
    labels: dict[str, int]


class Outer(Canonical, frozen=True):
    inner: tuple[Maps | None, ...]


class NotCanonical(msgspec.Struct, frozen=True, array_like=True):
    name: str


@pytest.mark.parametrize(
    "kind",
    [
        float,
        dict[str, int],
        set[int],
        frozenset[int],
        Any,
        datetime,
        Annotated[float, msgspec.Meta(ge=0)],
        tuple[int, float],
        int | float,
        WithDefault,
        Maps,
        Outer,
        NotCanonical,
        bytearray,
    ],
)
def test_types_outside_the_profile_are_our_own_mistake(kind: Any) -> None:
    for _ in range(2):
        with pytest.raises(TypeError):
            decode(b"\x90", kind, bytes_max=9)


def test_the_profile_allows_literals_enums_and_nothing() -> None:
    assert decode(b"\x01", Literal[1, 2], bytes_max=9) == 1
    assert decode(b"\xa3red", Colour, bytes_max=9) is Colour.RED
    assert decode(b"\xc0", None, bytes_max=9) is None
    assert decode(b"\x92\x01\xa1a", tuple[int, str], bytes_max=9) == (1, "a")


def test_canonical_values_are_immutable_and_hashable() -> None:
    revoke = Revoke(bytes(32), None)
    with pytest.raises(AttributeError):
        revoke.reason = "changed"  # type: ignore[misc]
    assert hash(revoke) == hash(Revoke(bytes(32), None))
