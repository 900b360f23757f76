"""The lines of a run's story: one for each state that a node comes to, in words."""

from collections.abc import Iterator

from consensus.messages import Commit, Prepare, PrePrepare, Signed, ViewChange
from ledger.store import Write, WriteBlock, WritePromise
from node.wire import BatchBody, Consensus, Decided, Draft, Head, Message, Testimony
from simulations.trace import Detail


def steps_of(write: Write) -> Iterator[tuple[str, tuple[Detail, ...]]]:
    """What a node does that makes this durable, and the particulars."""
    match write:
        case WritePromise(_, promise):
            yield _promised(promise.signed)
        case WriteBlock(decision):
            certificate = decision.certificate
            votes = len(certificate.signatures)
            place = f"height {certificate.height} view {certificate.view}"
            yield "decides", (place, f"by {votes} votes,", "block", decision.block.hash)
        case _:
            pass


def _promised(signed: Signed) -> tuple[str, tuple[Detail, ...]]:
    message = signed.message
    place = f"height {message.height} view {message.view}"
    match message:
        case PrePrepare(_, _, block, justification):
            again = justification is not None and justification.prepared is not None
            return "proposes again" if again else "proposes", (place, "block", block.hash)
        case Prepare(_, _, block_hash):
            return "prepares", (place, "block", block_hash)
        case Commit(_, _, block_hash):
            return "commits", (place, "block", block_hash)
        case ViewChange(_, _, prepared):
            if prepared is None:
                return "asks for", (place,)
            had = f"having prepared view {prepared.view}, block"
            return "asks for", (place, had, prepared.block_hash)


def name_of(message: Message) -> str:
    """A message in a few words."""
    match message:
        case Consensus(signed):
            said = signed.message
            return f"its {type(said).__name__} of height {said.height} view {said.view}"
        case BatchBody():
            return "a batch"
        case Head(height):
            return f"its head {height}"
        case Decided(decision):
            return f"the block of height {decision.block.header.height}"
        case Testimony(height, signer):
            return f"what {signer} said at height {height}"
        case Draft(height):
            return f"its draft of height {height}"
