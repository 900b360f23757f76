"""Checks what a node has stored of an undecided height: its promises and the blocks they name."""

from consensus.certificates import (
    CertificateError,
    check_certificate,
    check_justification,
    check_view_change,
)
from consensus.committee import Committee
from consensus.events import Persist
from consensus.messages import (
    Certificate,
    Message,
    Phase,
    PrePrepare,
    ViewChange,
    signing_digest,
)
from consensus.promises import PromiseError, Promises
from ledger.execution import payload_batches
from primitives.block import Block
from primitives.keys import verify
from primitives.merkle import sized_root
from storage.reader import SqliteReader


class PromiseFault(Exception):
    """What is wrong with a promise, as a clause."""


def check_promises(
    reader: SqliteReader, height: int, chain_id: bytes, committee: Committee
) -> None:
    """Raise PromiseFault or CertificateError unless all that is stored is for `height` and sound.

    `committee` is the one that decides this height.
    """
    for table in ("promise", "proposal"):
        ((count,),) = reader.rows(
            f"SELECT COUNT(*) FROM {table} WHERE height IS NOT ?",  # noqa: S608
            height,
        )
        if count:
            raise PromiseFault(f"the table {table} has a row that is not of height {height}")
    promises = reader.promises(height)
    vouched: dict[bytes, None] = {}
    for promise in promises:
        _check_promise(promise, chain_id, committee)
        if promise.block is not None:
            _check_block(promise.block)
            vouched[promise.block.hash] = None
    try:
        Promises(height, promises)
    except PromiseError as error:
        raise PromiseFault(f"the node's promises contradict each other: {error}") from error
    if sorted(vouched) != [
        hash_ for (hash_,) in reader.rows("SELECT hash FROM proposal ORDER BY 1")
    ]:
        raise PromiseFault("the stored proposals are not those that promises name")
    ((count, first, last, made),) = reader.rows(
        "SELECT COUNT(*), MIN(number), MAX(number),"
        " (SELECT seq FROM sqlite_sequence WHERE name = 'promise') FROM promise"
    )
    # Promises are dropped a whole height at a time, so those that are left are the latest ones.
    if count and (last != made or count != last - first + 1):
        raise PromiseFault(f"of {made} promises ever made, some of the latest are missing")


def _check_promise(promise: Persist, chain_id: bytes, committee: Committee) -> None:
    signed = promise.signed
    voter = committee.by_id.get(signed.signer)
    digest = signing_digest(chain_id, signed.signer, signed.message)
    if voter is None or not verify(voter.key, digest, signed.signature):
        raise PromiseFault(f"a promise is not signed by {signed.signer}")
    _check_message(signed.message, chain_id, committee)
    if promise.prepared is not None:
        _check_prepared(promise.prepared, signed.message, chain_id, committee)


def _check_message(message: Message, chain_id: bytes, committee: Committee) -> None:
    """Check what the signature does not cover: it covers hashes and claims, not what they name."""
    match message:
        case PrePrepare(height, view, block, justification):
            _check_block(block)
            if justification is not None:
                check_justification(justification, height, view, chain_id, committee)
        case ViewChange():
            check_view_change(message, chain_id, committee)
        case _:
            pass


def _check_prepared(
    certificate: Certificate, message: Message, chain_id: bytes, committee: Committee
) -> None:
    if certificate.height != message.height:
        raise CertificateError("the prepared certificate of a promise is of another height")
    check_certificate(certificate, Phase.PREPARE, chain_id, committee)


def _check_block(block: Block) -> None:
    # The hash covers the header alone; the header's root covers the payload.
    if sized_root(payload_batches(block.payload)) != block.header.batches_root:
        raise PromiseFault("a stored proposal lists other batches than its header says")
