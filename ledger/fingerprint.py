"""Commitments to files: what a ledger holds instead of data, and how a file is checked against it.

A file is cut into segments, each hashed with BLAKE3; an RFC 6962 tree over the segment hashes, the
sizes and a random salt give the commitment:

    commitment = digest("commitment", salt || canonical (size, segment_bytes, tree root))

The ledger sees the commitment alone. The salt stays with the data holder: without it a guess at a
file's content cannot be tried, and dropping it is how erasure is honoured (docs/ARCHITECTURE.md
section 6). Salt and segment hashes together are the opening; whoever gets file and opening can say
which segment differs, and needs no more memory than one chunk. Segments are 1 MiB; above 64 GiB
they double with the file, so that an opening never has more than 65,536 of them. A file of a given
size is always cut in the same way.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from ledger.state import record_id
from primitives.codec import Canonical, CodecError, Digest, InstitutionId, UInt, decode, encode
from primitives.hashing import digest
from primitives.merkle import tree_root

SEGMENT_BYTES_MIN: Final = 1024 * 1024
SEGMENTS_MAX: Final = 65_536
SALT_BYTES: Final = 32
SIDECAR_VERSION: Final = 1
SIDECAR_BYTES_MAX: Final = 34 * SEGMENTS_MAX + 1024


class FingerprintError(ValueError):
    """A file, opening or sidecar is not what it should be; the message says where."""


class Opening(Canonical, frozen=True):
    """What a commitment was made from. Whoever has it can recognise the data: keep it private."""

    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    size: UInt
    """Bytes of the file."""
    segment_bytes: UInt
    """Bytes of every segment but the last."""
    segments: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=SEGMENTS_MAX)]
    """BLAKE3 of every segment."""


class Sidecar(Canonical, frozen=True):
    """The file that stands beside a registered one: with both, anyone can check it."""

    version: UInt
    record: Digest
    custodian: InstitutionId
    opening: Opening


class Fingerprinter:
    """Computes the opening of a file from chunks of any size."""

    def __init__(self, size: int) -> None:
        """Begin a file of `size` bytes: they fix how it is cut into segments."""
        self.segments: list[bytes] = []
        """The hashes of the segments that are complete."""
        self._size = size
        self._segment_bytes = segment_bytes_of(size)
        self._read = 0
        self._hasher = blake3()

    def update(self, chunk: bytes) -> None:
        """Take the next bytes. Raises FingerprintError if there are more than announced."""
        view = memoryview(chunk)
        if self._read + len(view) > self._size:
            raise FingerprintError(
                f"The file has more than {self._size} bytes: it is another file, or it grew."
            )
        while view:
            room = self._segment_bytes - self._read % self._segment_bytes
            part, view = view[:room], view[room:]
            self._hasher.update(part)
            self._read += len(part)
            if self._read % self._segment_bytes == 0 or self._read == self._size:
                self.segments.append(self._hasher.digest())
                self._hasher = blake3()

    def finish(self, salt: bytes) -> Opening:
        """Return the opening under a random `salt` of 32 bytes.

        Raises FingerprintError if there were fewer bytes than announced.
        """
        if self._read != self._size:
            raise FingerprintError(
                f"The file has {self._read} bytes and not {self._size}: it is another file, or it "
                "was cut off."
            )
        return Opening(salt, self._size, self._segment_bytes, tuple(self.segments))


def segment_bytes_of(size: int) -> int:
    """Return the bytes of a segment of a file of `size` bytes."""
    segment_bytes = SEGMENT_BYTES_MIN
    while segment_bytes * SEGMENTS_MAX < size:
        segment_bytes *= 2
    return segment_bytes


def commitment(opening: Opening) -> bytes:
    """Return the commitment that `opening` opens, 32 bytes.

    Raises FingerprintError if it could not come from a file.
    """
    segment_bytes = segment_bytes_of(opening.size)
    segments = -(-opening.size // segment_bytes)
    if opening.segment_bytes != segment_bytes or len(opening.segments) != segments:
        raise FingerprintError(
            f"A file of {opening.size} bytes has {segments} segments of {segment_bytes} bytes, not "
            f"{len(opening.segments)} of {opening.segment_bytes}: the opening was changed."
        )
    root = tree_root(opening.segments)
    return digest("commitment", opening.salt + encode((opening.size, segment_bytes, root)))


def check_data(opening: Opening, chunks: Iterable[bytes]) -> None:
    """Raise FingerprintError, saying where they differ, unless `chunks` are the opened file."""
    fingerprinter = Fingerprinter(opening.size)
    checked = 0
    for chunk in chunks:
        fingerprinter.update(chunk)
        checked = _compare(opening, fingerprinter, checked)
    fingerprinter.finish(opening.salt)


def encode_sidecar(sidecar: Sidecar) -> bytes:
    """Return the bytes of a sidecar file."""
    return encode(sidecar)


def decode_sidecar(data: bytes) -> Sidecar:
    """Return the sidecar in the bytes of a file.

    Raises FingerprintError unless its opening is that of its record: no changed byte passes.
    """
    try:
        sidecar = decode(data, Sidecar, bytes_max=SIDECAR_BYTES_MAX)
    except CodecError as error:
        raise FingerprintError(f"This is not a sidecar file, or it is damaged. {error}") from error
    if sidecar.version != SIDECAR_VERSION:
        raise FingerprintError(
            f"The sidecar has version {sidecar.version}; this program reads {SIDECAR_VERSION}."
        )
    if record_id(sidecar.custodian, commitment(sidecar.opening)) != sidecar.record:
        raise FingerprintError("The sidecar contradicts itself: it was changed or is damaged.")
    return sidecar


def _compare(opening: Opening, fingerprinter: Fingerprinter, checked: int) -> int:
    """Compare the segments complete since the last call; return how many are compared now."""
    complete = len(fingerprinter.segments)
    for index in range(checked, complete):
        if fingerprinter.segments[index] != opening.segments[index]:
            start = index * opening.segment_bytes
            stop = min(start + opening.segment_bytes, opening.size)
            raise FingerprintError(
                f"The data differs in segment {index + 1} of {len(opening.segments)}, between the "
                f"bytes {start} and {stop}."
            )
    return complete
