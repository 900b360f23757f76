"""What a process that checks signatures runs; the node's side is in node/verifier.py.

It knows no secret, opens no file, and holds nothing from one request to the next. It ends with the
node, however that ends: then its input does. It imports little, since each node may have two.

A request is a count, 4 bytes, and for each signature the public key, the message, which is the id
of a batch or a transaction, and the signature: 128 bytes. The answer is a byte for each: 1 if it is
good, else 0. Both ends are of one program, on one machine.
"""

import contextlib
import os
import struct
import sys
from typing import BinaryIO, Final

from primitives.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, verify

COUNT: Final = struct.Struct("=I")
_ID_BYTES = 32
_SIGNED: Final = struct.Struct(f"{PUBLIC_KEY_BYTES}s{_ID_BYTES}s{SIGNATURE_BYTES}s")


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more, or half of one: the node was killed."""
    while len(head := requests.read(COUNT.size)) == COUNT.size:
        size = COUNT.unpack(head)[0] * _SIGNED.size
        packed = requests.read(size)
        if len(packed) < size:
            break
        answers.write(bytes(verify(*signed) for signed in _SIGNED.iter_unpack(packed)))
        answers.flush()


def main() -> None:
    """Serve on the socket whose descriptor is the argument."""
    descriptor = int(sys.argv[1])
    with (
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
        os.fdopen(descriptor, "rb") as requests,
        os.fdopen(os.dup(descriptor), "wb") as answers,
    ):
        serve(requests, answers)


if __name__ == "__main__":
    main()
