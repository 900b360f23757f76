"""Methods that make proof files, which anyone checks offline with `medpact proof verify`."""

from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from ledger.fingerprint import SIDECAR_BYTES_MAX, Opening
from ledger.proofs import build_record_proof, build_transaction_proof
from ledger.trie import ProofError
from node.jsonrpc import ErrorCode, RpcError
from node.methods.backend import Reader
from node.methods.service import Service
from node.methods.view import View
from node.methods.views import Hex32, Params
from primitives.codec import CodecError, decode

PROOF_BYTES_MAX: Final = 15 * 1024 * 1024
"""The largest proof file that one answer carries; twice that in hex."""
CHAINS_MAX: Final = 16


class ProofTransaction(Params, frozen=True):
    """A transaction, and the records, persons or institutions in whose chains it is to be shown as
    well.
    """

    id: Hex32
    chains: Annotated[tuple[Hex32, ...], msgspec.Meta(max_length=CHAINS_MAX)] = ()


class ProofRecord(Params, frozen=True):
    """A record; with the opening of its commitment (canonical bytes in hex) the file itself can be
    checked too.
    """

    id: Hex32
    opening: Annotated[str, msgspec.Meta(max_length=2 * SIDECAR_BYTES_MAX)] | None = None


class ProofView(View, frozen=True):
    """A proof file, in hex."""

    proof: str


async def proof_transaction(service: Service, params: ProofTransaction) -> ProofView:
    """The proof that a block holds a transaction, with its receipt."""
    transaction = bytes.fromhex(params.id)
    chains = tuple(bytes.fromhex(text) for text in params.chains)
    return await service.read(
        _proof, lambda reader: build_transaction_proof(reader, transaction, chains)
    )


async def proof_record(service: Service, params: ProofRecord) -> ProofView:
    """The proof of everything that happened to a record up to the head, or that there is no such
    record.
    """
    record = bytes.fromhex(params.id)
    opening = None if params.opening is None else _opening(params.opening)
    return await service.read(_proof, lambda reader: build_record_proof(reader, record, opening))


def _proof(reader: Reader, build: Callable[[Reader], bytes]) -> ProofView:
    try:
        with reader.snapshot():
            proof = build(reader)
    except ProofError as error:
        raise RpcError(ErrorCode.NOT_FOUND, str(error)) from error
    if len(proof) > PROOF_BYTES_MAX:
        raise RpcError(
            ErrorCode.TOO_LARGE,
            f"The proof has {len(proof)} bytes, and the RPC sends at most {PROOF_BYTES_MAX}: "
            "prove its transactions one by one.",
        )
    return ProofView(proof.hex())


def _opening(text: str) -> Opening:
    try:
        return decode(bytes.fromhex(text), Opening, bytes_max=SIDECAR_BYTES_MAX)
    except (ValueError, CodecError) as error:
        raise RpcError(
            ErrorCode.INVALID_PARAMS,
            "The opening is not one in hex; take the field 'opening' of the record's sidecar.",
        ) from error
