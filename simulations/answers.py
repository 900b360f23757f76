"""What an answer to a request means to the core: decoded and checked as the daemon's shell does."""

from collections.abc import Iterator

from ledger.transactions import BatchError
from node.conduct import Reason
from node.events import BatchArrived, BlockArrived, BlocksArrived, Event
from node.intake import IntakeError, Rules, check_batches_found, check_blocks_found
from node.wire import (
    BatchesFound,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    Request,
    decode_response,
)
from simulations.world import Checks


def answer_events(
    peer: str, request: Request, raw: bytes, checks: Checks, rules: Rules
) -> Iterator[Event]:
    """The events of a peer's answer. Raises CodecError and IntakeError for one that is bad, and
    BatchError for one with a batch that is not good by the keys that the node knows.
    """
    response = decode_response(raw)
    match request, response:
        case BatchesWanted(), BatchesFound():
            for batch in check_batches_found(request, response, rules, checks.known):
                yield BatchArrived(peer, batch)
        case BlockWanted(), BlockFound():
            yield BlockArrived(peer, response)
        case BlocksWanted(), BlocksFound():
            blocks = check_blocks_found(request, response, checks.known, rules)
            yield BlocksArrived(peer, blocks, response.head_height)
        case _:
            raise IntakeError("the answer is of another kind than the question")


def reason_of(error: Exception) -> Reason:
    """What a peer is counted for whose answer raised this."""
    return "batch_invalid" if isinstance(error, BatchError) else "answer_invalid"
