"""What peers and clients bring is checked, once, and only if it was asked for."""

from dataclasses import replace

import pytest

from ledger.transactions import (
    NO_KEY,
    BatchBody,
    BatchError,
    Envelope,
    TransactionError,
    batch_id,
    read_decided_batch,
    signed_by,
)
from node.intake import (
    IntakeError,
    check_batches_found,
    check_blocks_found,
    check_raw_batch,
    check_submissions,
)
from node.wire import (
    BatchesFound,
    BatchesWanted,
    BlocksFound,
    BlocksWanted,
    BlockWithBatches,
)
from primitives.block import Block
from primitives.codec import decode, encode
from tests.node.support import (
    START_MS,
    Bench,
    key_of,
    make_batch,
    make_chain,
    make_genesis,
    make_transaction,
    rules_of,
)

GENESIS = make_genesis(1, observers=1)
RULES = rules_of(GENESIS)
ONE, TWO = make_batch(GENESIS, "observer-1", 1), make_batch(GENESIS, "observer-1", 2)
STRANGE = make_batch(GENESIS, "stranger", 1)
STORE = make_chain(GENESIS, 3)


def found_blocks(height: int = 1, count: int = 3) -> tuple[BlockWithBatches, ...]:
    """Blocks as a peer sends them."""
    found = Bench(GENESIS, "recorder-1", STORE).core.answer(BlocksWanted(height, count))
    assert isinstance(found, BlocksFound)
    return found.blocks


def unsigned(raw: bytes) -> bytes:
    """A transaction with a signature of zeros."""
    return encode(Envelope(decode(raw, Envelope, bytes_max=len(raw)).body, bytes(64)))


# ---- batches -------------------------------------------------------------------------------------


def test_a_batch_of_a_member_is_checked() -> None:
    assert check_raw_batch(ONE.raw, RULES) == ONE
    for raw in (b"", b"\xff", STRANGE.raw, ONE.raw[:-1] + bytes([ONE.raw[-1] ^ 1])):
        for known in (None, lambda _: None):
            with pytest.raises(BatchError):
                check_raw_batch(raw, RULES, known)


def test_a_known_batch_is_taken_as_it_is_but_only_with_the_same_bytes() -> None:
    held = {ONE.id: ONE}
    assert check_raw_batch(ONE.raw, RULES, held.get) is ONE
    assert check_raw_batch(TWO.raw, RULES, held.get) == TWO
    # The id does not cover the signature: another signature is checked.
    forged = ONE.raw[:-1] + bytes([ONE.raw[-1] ^ 1])
    with pytest.raises(BatchError):
        check_raw_batch(forged, RULES, held.get)


def test_a_batch_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have a megabyte: two milliseconds."""
    hashed: list[bytes] = []

    def counted(chain_id: bytes, body: bytes) -> bytes:
        hashed.append(body)
        return batch_id(chain_id, body)

    monkeypatch.setattr("ledger.transactions.batch_id", counted)
    monkeypatch.setattr("node.intake.batch_id", counted)
    for known, signatures in ((lambda _: None, True), ({ONE.id: ONE}.get, False)):
        hashed.clear()
        assert check_raw_batch(ONE.raw, RULES, known, signatures=signatures) == ONE
        assert len(hashed) == 1


def test_an_answer_of_batches_is_what_was_asked_for() -> None:
    wanted = BatchesWanted((ONE.id, TWO.id))
    assert check_batches_found(wanted, BatchesFound((TWO.raw,)), RULES) == (TWO,)
    assert check_batches_found(wanted, BatchesFound(()), RULES) == ()
    bad = [
        (BatchesWanted((ONE.id,)), (TWO.raw,)),
        (BatchesWanted((ONE.id,)), (ONE.raw, ONE.raw)),
        (wanted, (b"\xff",)),
    ]
    for asked, raws in bad:
        with pytest.raises(IntakeError):
            check_batches_found(asked, BatchesFound(raws), RULES)
    # Whose key it is may have changed meanwhile: whoever answers need not be at fault.
    with pytest.raises(BatchError, match="not a member"):
        check_batches_found(BatchesWanted((STRANGE.id,)), BatchesFound((STRANGE.raw,)), RULES)


def test_no_signature_is_checked_of_what_was_not_asked_for() -> None:
    looked_up: list[bytes] = []
    with pytest.raises(IntakeError, match="not asked for"):
        check_batches_found(
            BatchesWanted((ONE.id, TWO.id)),
            BatchesFound((ONE.raw, STRANGE.raw)),
            RULES,
            lambda batch_id: looked_up.append(batch_id),
        )
    assert looked_up == []


# ---- blocks --------------------------------------------------------------------------------------


def test_blocks_come_with_their_batches() -> None:
    blocks = check_blocks_found(
        BlocksWanted(1, 3), BlocksFound(found_blocks(), 3), lambda _: None, RULES
    )
    assert [b.decision.block.header.height for b in blocks] == [1, 2, 3]
    assert [len(b.batches) for b in blocks] == [1, 1, 1]
    held = {b.batches[0].id: b.batches[0] for b in blocks}
    again = check_blocks_found(
        BlocksWanted(2, 1), BlocksFound(found_blocks(2, 1), 3), held.get, RULES
    )
    assert again[0].batches[0] is blocks[1].batches[0]


def test_keys_that_are_not_known_yet_are_for_the_core_to_judge() -> None:
    """A member may have joined, or changed its key, in a block of the same answer."""
    wanted, found = BlocksWanted(1, 1), BlocksFound(found_blocks(1, 1), 3)
    (one,) = check_blocks_found(wanted, found, lambda _: None, RULES)
    (batch,) = one.batches
    key = RULES.keys[batch.author]
    assert batch.signer_key == key
    assert [entry[0] for entry in one.verified] == [
        RULES.keys[entry.signer] for entry in one.decision.certificate.signatures
    ]
    old = {batch.author: key_of("an old key").public}
    for keys in (old, {}):
        (before,) = check_blocks_found(wanted, found, lambda _: None, replace(RULES, keys=keys))
        assert before == replace(one, batches=(replace(batch, signer_key=NO_KEY),), verified=())
        assert signed_by(before.batches[0], key) == batch
        assert signed_by(before.batches[0], key_of("an old key").public) is None


def test_only_decided_blocks_have_their_transactions_signatures_taken_on_trust() -> None:
    (found,) = found_blocks(1, 1)
    (raw,) = found.batches
    envelope = decode(raw, Envelope, bytes_max=len(raw))
    body = decode(envelope.body, BatchBody, bytes_max=len(raw))
    transactions = tuple(unsigned(transaction) for transaction in body.transactions)
    spoilt = encode(BatchBody(body.author, body.sequence, body.valid_until_height, transactions))
    identity = batch_id(GENESIS.chain_id, spoilt)
    raw = encode(Envelope(spoilt, key_of(body.author).sign(identity)))
    with pytest.raises(BatchError, match="signature is wrong"):
        check_raw_batch(raw, RULES)
    batch = read_decided_batch(raw, RULES.chain_id, RULES.limits, RULES.keys)
    assert (batch.id, batch.signer_key) == (identity, RULES.keys[body.author])


def test_blocks_that_are_not_what_was_asked_for_are_refused() -> None:
    one, two, three = found_blocks()
    decision = one.decision
    garbled = type(decision)(Block(decision.block.header, b"\xff"), decision.certificate)
    bad = [
        (BlocksWanted(1, 2), (one, two, three)),
        (BlocksWanted(2, 3), (one,)),
        (BlocksWanted(1, 3), (one, three)),
        (BlocksWanted(1, 1), (BlockWithBatches(garbled, one.batches),)),
        (BlocksWanted(1, 1), (BlockWithBatches(decision, ()),)),
        (BlocksWanted(1, 1), (BlockWithBatches(decision, two.batches),)),
        (BlocksWanted(1, 1), (BlockWithBatches(decision, (b"\xff",)),)),
    ]
    for wanted, blocks in bad:
        with pytest.raises(IntakeError):
            check_blocks_found(wanted, BlocksFound(blocks, 3), lambda _: None, RULES)


# ---- clients' transactions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until_height", "until_ms", "good"),
    [
        (11, START_MS + 1, True),
        (10, START_MS + 1, False),
        (11, START_MS, False),
        (10 + GENESIS.limits.replay_window_blocks, START_MS + 1, True),
        (11 + GENESIS.limits.replay_window_blocks, START_MS + 1, False),
    ],
)
def test_a_submission_must_still_be_worth_ordering(
    until_height: int, until_ms: int, good: bool
) -> None:
    transaction = make_transaction(
        GENESIS, "observer-1", 1, until_height=until_height, until_ms=until_ms
    )
    (found,) = check_submissions([transaction.raw], RULES, 10, START_MS)
    assert (found == transaction) is good
    assert good or (isinstance(found, TransactionError) and "sign it" in str(found))
