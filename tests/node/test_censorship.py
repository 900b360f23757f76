"""A member whose batches are left out, and a member that would have others blamed for it."""

from collections.abc import Callable, Iterator

import pytest

from ledger.replay import ReplayWindow
from ledger.transactions import CheckedBatch
from node.events import BatchArrived
from node.mempool import MempoolLimits
from node.settings import CoreSettings
from node.wire import BatchBody, decode_message
from tests.node.support import (
    START_MS,
    Net,
    Parcel,
    executed,
    make_batch,
    make_genesis,
    make_transaction,
    view_changes,
)


def censor(net: Net, who: str, victim: str) -> None:
    """From now on `who` proposes nothing of the victim; else it keeps to the rules."""
    mempool = net[who].core.mempool
    honest = mempool.proposable

    def proposable(height: int, time_ms: int, replay: ReplayWindow) -> Iterator[CheckedBatch]:
        return (batch for batch in honest(height, time_ms, replay) if batch.author != victim)

    mempool.proposable = proposable  # type: ignore[method-assign]


def blamed(net: Net, *liars: str) -> dict[str, int]:
    """How often the others saw each member leave batches out."""
    found: dict[str, int] = {}
    for id, bench in net.benches.items():
        for peer, reasons in bench.core.conduct.counts().items():
            if id not in liars and "batch_left_out" in reasons:
                found[peer] = found.get(peer, 0) + reasons["batch_left_out"]
    return found


def carries_batch(parcel: Parcel) -> bool:
    content = parcel.content
    direct = isinstance(content, bytes) and not parcel.gossip
    return direct and isinstance(decode_message(bytes(parcel.content)), BatchBody)  # type: ignore[arg-type]


# ---- what a censor achieves ----------------------------------------------------------------------


def test_with_f_censors_a_batch_waits_for_f_blocks_more_while_all_others_flow() -> None:
    net = Net(make_genesis(7, observers=2, censorship_heights=1))
    faulty = 2
    for who in ("recorder-3", "recorder-4"):
        censor(net, who, "observer-1")
    waited = []
    for number in range(21):
        net.submit("observer-2", 1_000 + number)
        if number % 3 == 0:
            # The other batch was sealed at once: the block after the head is under way.
            held_at = max(net.heights()) + 2
            mine = net.submit("observer-1", number)
        net.run(10)
        if number % 3 == 2:
            net.run(1_000, lambda mine=mine: executed(net, mine))  # type: ignore[misc]
            position = net["recorder-1"].store.transaction_position(mine[0].id)
            assert position is not None
            waited.append(position[0] - held_at)
    assert max(waited) == faulty, "the block that was under way when it came may be a censor's too"
    assert view_changes(net) == 0
    assert blamed(net) == {}


def test_a_censor_loses_its_turn_when_a_batch_is_due() -> None:
    """More censors in a row than any bound allows, who vote by the rules: three are correct, more
    than f of seven, so that the others follow them.
    """
    censors = ("recorder-2", "recorder-3", "recorder-4", "recorder-5")
    allowed = 1
    net = Net(make_genesis(7, observers=2, censorship_heights=allowed))
    for who in censors:
        censor(net, who, "observer-1")
    mine = net.submit("observer-1", 1)
    for number in range(20):
        net.submit("observer-2", 1_000 + number)
        net.run(10)
    position = net["recorder-1"].store.transaction_position(mine[0].id)
    assert position is not None
    # It came while height 1 was open: the blocks of heights 2 and 3 pass over it, at 4 it is due.
    assert position[0] == 1 + allowed + 2
    decided = net["recorder-1"].store.decision(position[0])
    assert decided is not None
    assert decided.block.header.proposer == "recorder-6"
    assert decided.block.header.view == 1
    assert set(blamed(net, *censors)) == {"recorder-5"}


def test_the_only_work_there_is_costs_a_censor_its_view() -> None:
    net = Net(make_genesis(4, observers=1))
    primary = net["recorder-1"].core.chain.committee.primary(1, 0)
    censor(net, primary, "observer-1")
    mine = net.submit("observer-1", 1)
    net.run(2_500, lambda: executed(net, mine))
    assert executed(net, mine)
    assert net["recorder-1"].core.head.proposer != primary
    assert net["recorder-1"].core.head.height == 1


def test_what_a_holder_alone_has_reaches_the_primaries_when_it_is_passed_over() -> None:
    net = Net(make_genesis(4, auditors=1, observers=2))
    net.lose = lambda parcel: carries_batch(parcel) and parcel.sender == "observer-1"
    mine = net.submit("observer-1", 1)
    net.run(5)
    (batch,) = net["observer-1"].core.mempool.batches()
    net.lose = lambda parcel: "observer-1" in (parcel.sender, parcel.to)
    net.step("auditor-1", BatchArrived("observer-1", batch))
    for number in range(6):
        net.submit("observer-2", 1_000 + number)
        net.run(10)
    net.lose = lambda parcel: False
    net.run(10_000, lambda: executed(net, mine))
    position = net["recorder-1"].store.transaction_position(mine[0].id)
    assert position is not None
    assert position[0] <= 4
    assert view_changes(net) == 0


# ---- who would have others blamed ----------------------------------------------------------------


def flow(net: Net, blocks: int, each: Callable[[int], None], block_ms: int = 10) -> None:
    """Keep blocks coming, and do something at each."""
    for number in range(blocks):
        each(number)
        net.submit("observer-2", 10_000 + number)
        net.run(block_ms)


def test_batches_that_cannot_run_unseat_nobody() -> None:
    genesis = make_genesis(4, auditors=4, observers=2, censorship_heights=1)
    net = Net(genesis)
    window = genesis.limits.replay_window_blocks
    auditors = [id for id in net.benches if id.startswith("auditor")]

    def each(number: int) -> None:
        wall = START_MS + net.now
        lies = [
            make_transaction(genesis, "observer-1", number, until_height=max(number - 1, 0)),
            make_transaction(genesis, "observer-1", number, until_height=number + window + 9),
            make_transaction(genesis, "observer-1", number, until_ms=wall - 9_000),
            make_transaction(genesis, "observer-1", number, until_ms=wall + 1),
        ]
        for place, lie in enumerate(lies):
            batch = make_batch(genesis, "observer-1", 10 * number + place, [lie])
            for id in auditors:
                net.step(id, BatchArrived("observer-1", batch))

    flow(net, 12, each)
    net.run(20_000)
    assert view_changes(net) == 0
    assert blamed(net) == {}
    assert min(net.heights()) >= 12


def test_a_sequence_used_twice_unseats_nobody() -> None:
    """The auditors hold one batch, the primaries another of the same sequence."""
    genesis = make_genesis(4, auditors=4, observers=2, censorship_heights=1)
    net = Net(genesis)

    def each(number: int) -> None:
        for id in net.benches:
            role = 1 if id.startswith("auditor") else 2
            one = [make_transaction(genesis, "observer-1", 100 * role + number)]
            twin = make_batch(genesis, "observer-1", number, one)
            net.step(id, BatchArrived("observer-1", twin))

    flow(net, 12, each)
    assert view_changes(net) == 0
    assert blamed(net) == {}


def test_filling_the_primaries_quota_with_other_batches_unseats_nobody() -> None:
    """The auditors hold a batch for which no primary ever has room."""
    settings = CoreSettings(mempool=MempoolLimits(author_batches_max=2))
    genesis = make_genesis(4, auditors=4, observers=2, censorship_heights=1, block_batches_max=3)
    net = Net(genesis, settings=settings)
    secret = make_batch(genesis, "observer-1", 1)

    def each(number: int) -> None:
        for id in net.benches:
            if id.startswith("auditor"):
                net.step(id, BatchArrived("observer-1", secret))
            if id.startswith("recorder"):
                for sequence in range(10 * number + 10, 10 * number + 20):
                    batch = make_batch(genesis, "observer-1", sequence)
                    net.step(id, BatchArrived("observer-1", batch))

    # The auditors have to ask for what only the primaries were given, which takes a moment.
    flow(net, 12, each, block_ms=110)
    assert view_changes(net) == 0
    assert blamed(net) == {}
    assert min(net.heights()) >= 10


@pytest.mark.parametrize("validity_ms", [150, 450])
def test_batches_that_die_on_the_way_take_no_turn_from_a_primary(validity_ms: int) -> None:
    """A new one comes to everyone but the primary before the last has expired, so that there is
    always something that could be ordered, and never something that the primary has.
    """
    genesis = make_genesis(4, observers=2, view_timeout_ms_min=500)
    net = Net(genesis)
    primary = net["recorder-1"].core.chain.committee.primary(1, 0)
    for number in range(60):
        until_ms = START_MS + net.now + validity_ms
        fleeting = make_transaction(genesis, "observer-1", number, until_ms=until_ms)
        batch = make_batch(genesis, "observer-1", number + 1, [fleeting])
        for id in net.benches:
            if id != primary:
                net.step(id, BatchArrived("observer-1", batch))
        net.run(100)
    assert view_changes(net) == 0
    # Real work is ordered as ever, also when the primary is dead: by a change of view.
    net.stop(primary)
    mine = net.submit("observer-2", 1)
    net.run(10_000, lambda: executed(net, mine))
    assert executed(net, mine)
    assert net["observer-1"].core.head.view > 0


def test_short_validity_is_no_reason_to_refuse_what_can_be_ordered_at_once() -> None:
    net = Net(make_genesis(4, observers=1))
    until_ms = START_MS + net.now + 20
    short = make_transaction(net.genesis, "observer-1", 1, until_ms=until_ms)
    batch = make_batch(net.genesis, "observer-1", 1, [short])
    for id in net.benches:
        net.step(id, BatchArrived("observer-1", batch))
    net.run(1_000)
    assert executed(net, [short])
