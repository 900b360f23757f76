"""A newcomer among peers that lie about the chain, all but one: it catches up with the true one,
and each liar is counted for what it did.
"""

from collections.abc import Callable

import msgspec
import pytest

from consensus.certificates import assemble
from consensus.messages import Decision, Phase, vote_digest
from ledger.transactions import CheckedTransaction
from node.core import Core
from node.events import MessageArrived
from node.judging import Judging
from node.wire import (
    BatchesFound,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWithBatches,
    Head,
    Request,
    Response,
)
from primitives.block import Block
from tests.node.support import Net, Parcel, executed_on, key_of, make_genesis

Lie = Callable[[BlocksFound], BlocksFound]
LIARS = ("recorder-1", "recorder-2", "recorder-3")
HONEST = "recorder-4"
NEWCOMER = "observer-1"


def forged(liar: str, block: BlockWithBatches) -> BlockWithBatches:
    """A block of another time, with COMMITs of everyone in the liar's own hand."""
    header = msgspec.structs.replace(
        block.decision.block.header, time_ms=block.decision.block.header.time_ms + 1
    )
    certificate = block.decision.certificate
    signatures = {}
    for entry in certificate.signatures:
        digest = vote_digest(
            header.chain_id, entry.signer, Phase.COMMIT, header.height, 0, header.hash()
        )
        signatures[entry.signer] = key_of(liar).sign(digest)
    proof = assemble(Phase.COMMIT, header.height, 0, header.hash(), signatures)
    return BlockWithBatches(
        Decision(Block(header, block.decision.block.payload), proof), block.batches
    )


def forge_all(liar: str) -> Lie:
    return lambda found: BlocksFound(tuple(forged(liar, b) for b in found.blocks), 10**9)


def swap_bodies(found: BlocksFound) -> BlocksFound:
    """Each block with the batches of the next."""
    bodies = [block.batches for block in found.blocks]
    swapped = [*bodies[1:], *bodies[:1]]
    pairs = zip(found.blocks, swapped, strict=True)
    return BlocksFound(tuple(BlockWithBatches(b.decision, s) for b, s in pairs), 10**9)


def repeat_old_certificate(found: BlocksFound) -> BlocksFound:
    """Every block with the certificate of the first that was asked for, moved to its height."""
    proof = found.blocks[0].decision.certificate
    blocks = []
    for block in found.blocks:
        old = msgspec.structs.replace(proof, height=block.decision.block.header.height - 1)
        blocks.append(BlockWithBatches(Decision(block.decision.block, old), block.batches))
    return BlocksFound(tuple(blocks), 10**9)


def skip_one(found: BlocksFound) -> BlocksFound:
    return BlocksFound(found.blocks[1:], 10**9)


def give_nothing(found: BlocksFound) -> BlocksFound:
    return BlocksFound((), 10**9)


LIES: dict[str, tuple[Callable[[str], Lie], str]] = {
    "forged chain": (forge_all, "sync_block_false"),
    "swapped bodies": (lambda _: swap_bodies, "answer"),
    "old certificates": (lambda _: repeat_old_certificate, "sync_block_false"),
    "a gap": (lambda _: skip_one, "answer"),
    "nothing": (lambda _: give_nothing, "head_false"),
}


def lie(core: Core, change: Lie) -> None:
    """From now on it claims a huge head and spoils every answer."""
    honest = core.answer

    def answer(request: Request) -> Response:
        found = honest(request)
        match found:
            case BlocksFound() if found.blocks:
                return change(found)
            case BatchesFound() | BlockFound() | BlocksFound():
                return found

    core.answer = answer  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", LIES)
def test_a_newcomer_among_liars_catches_up_with_the_one_honest_peer(kind: str) -> None:
    make, reason = LIES[kind]
    net = Net(make_genesis(4, observers=1), *LIARS, HONEST)
    taken = [t for number in range(12) for t in submit(net, number)]
    assert min(net.heights()) >= 12
    for liar in LIARS:
        lie(net[liar].core, make(liar))
    asked: list[str] = []

    def note(parcel: Parcel) -> bool:
        if parcel.sender == NEWCOMER and isinstance(parcel.content, BlocksWanted):
            asked.append(parcel.to)
        return False

    net.lose = note
    bench = net.start(NEWCOMER)
    net.run(30_000, lambda: bench.core.head.height >= 12)

    assert executed_on(net, NEWCOMER, taken)
    assert bench.core.head.state_root == net[HONEST].core.head.state_root
    assert len([peer for peer in asked if peer in LIARS]) <= len(LIARS)
    counted = bench.core.conduct.counts()
    assert HONEST not in counted
    if reason != "answer":
        # The other lies are seen by the shell before the core is told.
        wasted = [peer for peer in asked if peer in LIARS]
        assert {peer: dict(reasons) for peer, reasons in counted.items()} == {
            peer: {reason: 1} for peer in wasted
        }


def submit(net: Net, number: int) -> list[CheckedTransaction]:
    """A block with one transaction, applied everywhere."""
    taken = net.submit(HONEST, number)
    net.run(1_000, lambda: all(executed_on(net, id, taken) for id in net.benches))
    return taken


def test_one_liar_does_not_make_a_node_that_is_up_to_date_look_behind() -> None:
    net = Net(make_genesis(4, observers=1))
    taken = net.submit(HONEST, 1)
    net.run(1_000, lambda: all(executed_on(net, id, taken) for id in net.benches))
    bench = net[NEWCOMER]
    claim = Head(10**9, b"\x07" * 32)
    behind = []
    for _ in range(60):
        net.step(NEWCOMER, MessageArrived(LIARS[0], claim))
        net.run(1_000)
        behind.append(bench.core.sync.target() > bench.core.chain.next_height)
    assert behind == [False] * 60, "the claim ends with the first answer, before anybody looks"
    assert bench.core.conduct.counts()[LIARS[0]]["head_false"] <= 5


def test_a_voter_that_catches_up_builds_no_blocks_of_the_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Net(make_genesis(4), *LIARS)
    head = 0
    for number in range(8):
        taken = net.submit(LIARS[0], number)
        net.run(60_000, lambda t=taken: all(executed_on(net, id, t) for id in LIARS))  # type: ignore[misc]
        head = max(net.heights())
    built: list[int] = []
    build = Judging.build

    def note(judging: Judging, view: int) -> Block | None:
        built.append(judging._chain.next_height)
        return build(judging, view)

    monkeypatch.setattr(Judging, "build", note)
    bench = net.start(HONEST)
    late = net.submit(HONEST, 100)
    net.run(60_000, lambda: executed_on(net, HONEST, late))
    assert bench.core.head.height > head
    assert min(built) > head
