"""What travels on a direct stream: frames, the hello in them, and the queue in front of them. Pure.

    frame    := length (4 bytes, big endian, of the body)  kind (1 byte)  body
    HELLO    := canonical encoding of Hello; the first frame in each direction, and only there
    REFUSAL  := the same, from a node that will not talk to us: compare the two to learn why
    MESSAGES := (length (4 bytes, big endian)  message)*, each of 1 byte or more; none: a heartbeat

One frame holds whatever had queued up since the last: encryption, system calls and wake-ups are
paid per frame, and under load they would cost more than the votes inside. Whatever a peer sends,
the decoder holds at most one frame of `frame_bytes_max` and raises nothing but FramingError.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Iterator

from primitives.codec import Canonical, CodecError, Digest, InstitutionId, ShortText, UInt
from primitives.codec import decode as decode_canonical
from primitives.codec import encode as encode_canonical

PROTOCOL_VERSION = 1
HELLO_BYTES_MAX = 512
FRAME_MESSAGES_MAX = 4096
# More than this is not gathered into one frame: a long one delays its first message.
FRAME_BYTES_GATHERED = 128 * 1024

_HEADER = struct.Struct(">IB")
_LENGTH = struct.Struct(">I")


class FramingError(ValueError):
    """The peer broke the rules above."""


class Kind(enum.IntEnum):
    """The second field of a frame."""

    HELLO = 1
    REFUSAL = 2
    MESSAGES = 3


_KINDS = {kind.value: kind for kind in Kind}


class Hello(Canonical, frozen=True):
    """Who speaks, and of which ledger."""

    protocol: UInt
    chain_id: Digest
    software: ShortText
    id: InstitutionId


def mismatch(ours: Hello, theirs: Hello, peer: str) -> str | None:
    """Why the node that proved to be `peer` and we cannot talk, or None."""
    if theirs.protocol != ours.protocol:
        return (
            f"{peer} speaks version {theirs.protocol} of the protocol (medpact {theirs.software}), "
            f"we speak version {ours.protocol} (medpact {ours.software}): update the older one"
        )
    if theirs.chain_id != ours.chain_id:
        return (
            f"{peer} follows another genesis (its chain id starts with "
            f"{theirs.chain_id.hex()[:8]}, ours with {ours.chain_id.hex()[:8]}): "
            "compare the genesis.toml files"
        )
    return None


def encode_hello(kind: Kind, hello: Hello) -> bytes:
    """A frame of `kind` HELLO or REFUSAL."""
    body = encode_canonical(hello)
    return _HEADER.pack(len(body), kind) + body


def decode_hello(body: bytes) -> Hello:
    """Raises FramingError."""
    try:
        hello = decode_canonical(body, Hello, bytes_max=HELLO_BYTES_MAX)
    except CodecError as error:
        raise FramingError(f"malformed hello: {error}") from error
    # It will be logged.
    if not (hello.software.isascii() and hello.software.isprintable()):
        raise FramingError("malformed hello: unprintable software version")
    return hello


def encode_messages(messages: list[bytes]) -> bytes:
    """A frame of kind MESSAGES; without messages a heartbeat."""
    parts = [b""]
    for message in messages:
        parts.append(_LENGTH.pack(len(message)))
        parts.append(message)
    parts[0] = _HEADER.pack(sum(map(len, parts)), Kind.MESSAGES)
    return b"".join(parts)


def decode_messages(body: bytes, message_bytes_max: int) -> list[bytes]:
    """The messages of a MESSAGES frame. Raises FramingError."""
    messages: list[bytes] = []
    position = 0
    while position < len(body):
        start = position + _LENGTH.size
        if start > len(body):
            raise FramingError("a frame ends within a length")
        (length,) = _LENGTH.unpack_from(body, position)
        position = start + length
        if not 1 <= length <= message_bytes_max:
            raise FramingError(f"a message of {length} bytes; allowed are 1 to {message_bytes_max}")
        if position > len(body):
            raise FramingError("a frame ends within a message")
        if len(messages) == FRAME_MESSAGES_MAX:
            raise FramingError(f"more than {FRAME_MESSAGES_MAX} messages in a frame")
        messages.append(body[start:position])
    return messages


class FrameDecoder:
    """Cuts a stream of bytes into frames. After a FramingError the stream is of no more use."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """The frames that `data` completes; the caller takes them all. Raises FramingError."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _HEADER.size:
                length, number = _HEADER.unpack_from(buffer, start)
                kind = _KINDS.get(number)
                if kind is None:
                    raise FramingError(f"a frame of the unknown kind {number}")
                bytes_max = self._frame_bytes_max if kind is Kind.MESSAGES else HELLO_BYTES_MAX
                if length > bytes_max:
                    raise FramingError(f"a frame of {length} bytes; allowed are {bytes_max}")
                end = start + _HEADER.size + length
                if len(buffer) < end:
                    break
                body = bytes(buffer[end - length : end])
                start = end
                yield kind, body
        finally:
            del buffer[:start]


class Outbox:
    """Messages on their way to one peer, bounded in number and bytes."""

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._messages: deque[bytes] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: bytes) -> bool:
        """False, and nothing done, if there is no room."""
        total = self._bytes + len(message)
        if len(self._messages) >= self._messages_max or total > self._bytes_max:
            return False
        self._messages.append(message)
        self._bytes = total
        return True

    @property
    def next_frame_bytes_max(self) -> int:
        """What a frame of the messages that `take` returns next, if there are any, can have."""
        messages = max(FRAME_BYTES_GATHERED, len(self._messages[0]) if self._messages else 0)
        return _HEADER.size + FRAME_MESSAGES_MAX * _LENGTH.size + messages

    def take(self, bytes_max: int = FRAME_BYTES_GATHERED) -> list[bytes]:
        """Remove and return the first messages: a frameful, of `bytes_max` bytes in all.

        The first is taken even if it is longer.
        """
        taken: list[bytes] = []
        size = 0
        while self._messages and len(taken) < FRAME_MESSAGES_MAX:
            size += len(self._messages[0])
            if size > bytes_max and taken:
                break
            message = self._messages.popleft()
            self._bytes -= len(message)
            taken.append(message)
        return taken

    def clear(self) -> int:
        """Forget all messages and say how many there were."""
        count = len(self._messages)
        self._messages.clear()
        self._bytes = 0
        return count


class Allowance:
    """At most `per_second` events a second over time, and as many at once."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._thousandths = per_second * 1000
        self._then = 0

    def take(self, now: int) -> bool:
        """True if one more event is allowed at `now`, in ms, which never goes back."""
        gained = (now - self._then) * self._per_second
        self._then = now
        self._thousandths = min(self._thousandths + gained, self._per_second * 1000)
        if self._thousandths < 1000:
            return False
        self._thousandths -= 1000
        return True
