"""Frames, hellos, the outbox: exact verdicts, and properties over all splits and all garbage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.framing import (
    FRAME_BYTES_GATHERED,
    FRAME_MESSAGES_MAX,
    HELLO_BYTES_MAX,
    PROTOCOL_VERSION,
    Allowance,
    FrameDecoder,
    FramingError,
    Hello,
    Kind,
    Outbox,
    decode_hello,
    decode_messages,
    encode_hello,
    encode_messages,
    mismatch,
)

OURS = Hello(PROTOCOL_VERSION, b"\x11" * 32, "1.0", "recorder-1")
FRAME_BYTES_MAX = 4096
MESSAGE_BYTES_MAX = 1024

messages = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def body_of(frame: bytes) -> bytes:
    ((_, body),) = FrameDecoder(FRAME_BYTES_MAX).feed(frame)
    return body


@given(st.lists(messages, max_size=6), st.lists(st.integers(1, 30), max_size=60))
def test_frames_survive_any_split(frames: list[list[bytes]], sizes: list[int]) -> None:
    stream = b"".join(encode_messages(frame) for frame in frames)
    decoder = FrameDecoder(FRAME_BYTES_MAX)
    received: list[list[bytes]] = []
    start = 0
    for size in (*sizes, len(stream)):
        for kind, body in decoder.feed(stream[start : start + size]):
            assert kind is Kind.MESSAGES
            received.append(decode_messages(body, MESSAGE_BYTES_MAX))
        start += size
    assert received == frames


@given(st.binary(max_size=300))
def test_garbage_raises_nothing_but_framing_errors(data: bytes) -> None:
    try:
        for kind, body in FrameDecoder(200).feed(data):
            if kind is Kind.MESSAGES:
                for message in decode_messages(body, 100):
                    assert 1 <= len(message) <= 100
            else:
                decode_hello(body)
    except FramingError:
        pass


def test_the_bytes_of_a_frame() -> None:
    assert encode_messages([b"ab", b"c"]) == bytes.fromhex(
        "0000000b 03 00000002 6162 00000001 63".replace(" ", "")
    )
    assert encode_messages([]) == bytes.fromhex("0000000003")


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (b"\0\0\0\0\x07", "unknown kind 7"),
        (b"\0\0\x10\x01\x03", "a frame of 4097 bytes"),
        (b"\xff\xff\xff\xff\x03", "a frame of 4294967295 bytes"),
        (b"\0\0\x02\x01\x01", f"allowed are {HELLO_BYTES_MAX}"),
    ],
)
def test_a_bad_header_is_refused_before_its_body_comes(frame: bytes, complaint: str) -> None:
    with pytest.raises(FramingError, match=complaint):
        list(FrameDecoder(FRAME_BYTES_MAX).feed(frame))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"\0\0\0", "within a length"),
        (b"\0\0\0\x02a", "within a message"),
        (b"\0\0\0\0", "a message of 0 bytes"),
        (b"\0\0\x04\x01" + bytes(1025), "a message of 1025 bytes"),
        (b"\0\0\0\x01x" * (FRAME_MESSAGES_MAX + 1), "more than"),
    ],
)
def test_a_bad_body_is_refused(body: bytes, complaint: str) -> None:
    with pytest.raises(FramingError, match=complaint):
        decode_messages(body, MESSAGE_BYTES_MAX)


def test_a_hello_comes_back() -> None:
    for kind in (Kind.HELLO, Kind.REFUSAL):
        frame = encode_hello(kind, OURS)
        assert list(FrameDecoder(FRAME_BYTES_MAX).feed(frame)) == [(kind, body_of(frame))]
        assert decode_hello(body_of(frame)) == OURS


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        body_of(encode_hello(Kind.HELLO, OURS)) + b"\0",
        body_of(encode_hello(Kind.HELLO, Hello(1, b"short", "1.0", "recorder-1"))),
        body_of(encode_hello(Kind.HELLO, Hello(1, b"\x11" * 32, "1.0", "No Such Id"))),
        body_of(encode_hello(Kind.HELLO, Hello(1, b"\x11" * 32, "1.0\nERROR", "recorder-1"))),
        body_of(encode_hello(Kind.HELLO, Hello(1, b"\x11" * 32, "1.é", "recorder-1"))),
    ],
)
def test_a_malformed_hello_is_refused(bad: bytes) -> None:
    with pytest.raises(FramingError, match="malformed hello"):
        decode_hello(bad)


def test_what_keeps_two_nodes_apart_is_said_in_words() -> None:
    assert mismatch(OURS, Hello(1, b"\x11" * 32, "2.0", "auditor-1"), "auditor-1") is None
    other_chain = Hello(PROTOCOL_VERSION, b"\xcd" * 32, "1.0", "auditor-1")
    assert mismatch(OURS, other_chain, "auditor-1") == (
        "auditor-1 follows another genesis (its chain id starts with cdcdcdcd, ours with "
        "11111111): compare the genesis.toml files"
    )
    newer = mismatch(OURS, Hello(9, b"\x11" * 32, "2.0", "auditor-1"), "auditor-1")
    assert newer is not None
    assert "version 9 of the protocol (medpact 2.0)" in newer
    assert "update the older one" in newer


def test_an_outbox_is_bounded_in_messages_and_bytes() -> None:
    outbox = Outbox(messages_max=3, bytes_max=10)
    assert [outbox.put(b"1234") for _ in range(3)] == [True, True, False]
    assert outbox.put(b"12")
    assert not outbox.put(b"")
    assert outbox.take() == [b"1234", b"1234", b"12"]
    assert outbox.put(b"1234567890")
    assert outbox.clear() == 1
    assert len(outbox) == 0
    assert outbox.put(b"1234567890")


@given(st.lists(st.integers(1, 5000), max_size=40))
def test_an_outbox_gives_all_in_order_in_bounded_frames(sizes: list[int]) -> None:
    outbox = Outbox(100, 10**6)
    queued = [bytes([number]) * size for number, size in enumerate(sizes)]
    for message in queued:
        assert outbox.put(message)
    taken: list[bytes] = []
    while outbox:
        batch = outbox.take(bytes_max=4000)
        assert len(batch) == 1 or sum(map(len, batch)) <= 4000
        taken += batch
    assert taken == queued


@given(st.lists(st.integers(0, 2 * FRAME_BYTES_GATHERED) | st.integers(1, 9), max_size=40))
def test_an_outbox_says_how_long_its_next_frame_can_be(sizes: list[int]) -> None:
    outbox = Outbox(100, 10**8)
    for size in sizes:
        outbox.put(bytes(size))
    while outbox:
        bytes_max = outbox.next_frame_bytes_max
        assert len(encode_messages(outbox.take())) <= bytes_max


def test_a_frame_of_the_most_messages_is_as_long_as_an_outbox_says() -> None:
    outbox = Outbox(FRAME_MESSAGES_MAX, 10**6)
    while outbox.put(bytes(FRAME_BYTES_GATHERED // FRAME_MESSAGES_MAX)):
        pass
    bytes_max = outbox.next_frame_bytes_max
    assert len(encode_messages(outbox.take())) == bytes_max


def test_an_outbox_never_fills_a_frame_with_more_messages_than_allowed() -> None:
    outbox = Outbox(FRAME_MESSAGES_MAX + 1, 10**6)
    for _ in range(FRAME_MESSAGES_MAX + 1):
        outbox.put(b"x")
    assert len(outbox.take()) == FRAME_MESSAGES_MAX
    assert len(outbox.take()) == 1


def test_an_allowance_fills_up_with_time_and_not_beyond() -> None:
    allowance = Allowance(per_second=2)
    assert [allowance.take(1000) for _ in range(3)] == [True, True, False]
    assert not allowance.take(1499)
    assert allowance.take(1500)
    assert [allowance.take(60_000) for _ in range(3)] == [True, True, False]
