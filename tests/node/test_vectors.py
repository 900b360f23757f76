"""The published vectors: tests/node/vectors.json, docs/protocol.md and the code agree."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.peer.id import ID

from node import wire
from node.framing import (
    FrameDecoder,
    FramingError,
    Hello,
    Kind,
    decode_hello,
    decode_messages,
    encode_hello,
    encode_messages,
)
from node.libp2p.links import DIRECT
from node.libp2p.requests import REQUEST
from node.transport import TransportLimits
from node.wire import (
    BatchBody,
    BatchesAnnounced,
    BatchesFound,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    Consensus,
    Decided,
    Draft,
    Head,
    HeadAnnounced,
    decode_gossip,
    decode_message,
    decode_request,
    decode_response,
)
from primitives.codec import Canonical, encode

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "vectors.json").read_text())
LIMITS = TransportLimits()


def frames(data: bytes) -> list[tuple[Kind, bytes]]:
    return list(FrameDecoder(LIMITS.frame_bytes_max).feed(data))


def messages_of(frame: bytes) -> list[list[bytes]]:
    return [decode_messages(body, LIMITS.message_bytes_max) for _, body in frames(frame)]


def test_peer() -> None:
    vector = VECTORS["peer"]
    peer = ID.from_pubkey(Ed25519PublicKey.from_bytes(bytes.fromhex(vector["key"])))
    assert peer.to_bytes().hex() == vector["id"] == "002408011220" + vector["key"]
    assert str(peer) == vector["text"]


def test_proposals() -> None:
    assert [vector["protocol"] for vector in VECTORS["proposals"]] == [DIRECT, REQUEST]
    for vector in VECTORS["proposals"]:
        lines = (f"{name}\n".encode() for name in ("/multistream/1.0.0", vector["protocol"]))
        assert b"".join(bytes([len(line)]) + line for line in lines).hex() == vector["encoding"]


def test_hello() -> None:
    vector = VECTORS["hello"]
    fields = vector["fields"] | {"chain_id": bytes.fromhex(vector["fields"]["chain_id"])}
    for kind, name in ((Kind.HELLO, "frame"), (Kind.REFUSAL, "refusal")):
        frame = bytes.fromhex(vector[name])
        assert encode_hello(kind, Hello(**fields)) == frame
        [(found, body)] = frames(frame)
        assert (found, decode_hello(body)) == (kind, Hello(**fields))
        assert struct.unpack_from(">IB", frame) == (len(frame) - 5, kind)
        assert msgpack.unpackb(frame[5:]) == list(fields.values())


@pytest.mark.parametrize("vector", VECTORS["frames"])
def test_frames(vector: dict[str, Any]) -> None:
    messages = [bytes.fromhex(message) for message in vector["messages"]]
    frame = bytes.fromhex(vector["frame"])
    assert encode_messages(messages) == frame
    assert frames(frame) == [(Kind.MESSAGES, frame[5:])]
    assert messages_of(frame) == [messages]


@pytest.mark.parametrize("vector", VECTORS["frames_refused"])
def test_frames_refused(vector: dict[str, str]) -> None:
    with pytest.raises(FramingError):
        messages_of(bytes.fromhex(vector["frame"]))


@pytest.mark.parametrize(
    ("section", "decode", "kinds"),
    [
        (
            "messages",
            decode_message,
            (Consensus, BatchBody, Head, wire.Testimony, Draft, Decided),
        ),
        ("gossip", decode_gossip, (BatchesAnnounced, HeadAnnounced)),
    ],
)
def test_messages_and_gossip(
    section: str, decode: Callable[[bytes], Canonical], kinds: tuple[type, ...]
) -> None:
    for kind, vector in zip(kinds, VECTORS[section], strict=True):
        data = bytes.fromhex(vector["encoding"])
        value = decode(data)
        assert type(value) is kind
        assert encode(value) == data


@pytest.mark.parametrize(
    ("section", "status", "decode", "kinds"),
    [
        ("requests", b"", decode_request, (BatchesWanted, BlockWanted, BlocksWanted)),
        ("responses", b"\0", decode_response, (BatchesFound, BlockFound, BlockFound, BlocksFound)),
    ],
)
def test_requests_and_responses(
    section: str, status: bytes, decode: Callable[[bytes], Canonical], kinds: tuple[type, ...]
) -> None:
    for kind, vector in zip(kinds, VECTORS[section], strict=True):
        sent = bytes.fromhex(vector["sent"])
        start = len(status) + 4
        value = decode(sent[start:])
        assert type(value) is kind
        assert status + struct.pack(">I", len(sent) - start) + encode(value) == sent


def test_the_page_shows_every_vector() -> None:
    page = (HERE.parents[1] / "docs" / "protocol.md").read_text()
    without_breaks = "".join(page.split())
    shown = [
        *VECTORS["peer"].values(),
        VECTORS["hello"]["frame"],
        VECTORS["hello"]["refusal"],
        *(vector["encoding"] for vector in VECTORS["proposals"]),
        *(vector["frame"] for vector in VECTORS["frames"] + VECTORS["frames_refused"]),
        *(message for vector in VECTORS["frames"] for message in vector["messages"]),
        *(vector["encoding"] for vector in VECTORS["messages"] + VECTORS["gossip"]),
        *(vector["sent"] for vector in VECTORS["requests"] + VECTORS["responses"]),
    ]
    for text in shown:
        assert f"`{text}`" in page or f"```{text}```" in without_breaks, text
