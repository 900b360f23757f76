"""A dump says what a database holds, byte for byte, also while its node has it open."""

import io
import json
import sys
from pathlib import Path

import pytest

from consensus.messages import Decision
from ledger.store import WritePromise
from primitives.codec import decode, encode
from storage.database import Database
from storage.dump import dump, main
from tests.storage.support import Ledger


async def test_blocks_and_promises_are_dumped_while_the_database_is_open(tmp_path: Path) -> None:
    path, ledger = tmp_path / "ledger.db", Ledger()
    database = await Database.open(path, ledger.chain_id)
    try:
        await database.write([ledger.begin()])
        for _ in range(3):
            await database.write([ledger.decide([ledger.batch()])])
        writes = ledger.round([ledger.batch()])
        await database.write(writes)
        found = dump(path, 1)
        brief = dump(path, None)
    finally:
        await database.close()
    assert (found["head"], brief["head"]) == (3, 3)
    assert brief["blocks"] == []
    promises = [write.promise for write in writes if isinstance(write, WritePromise)]
    assert len(promises) == 4
    assert [(row["signed"], row["prepared"]) for row in found["promises"]] == [
        (encode(p.signed).hex(), None if p.prepared is None else encode(p.prepared).hex())
        for p in promises
    ]
    decisions = [bytes.fromhex(block["decision"]) for block in found["blocks"]]
    assert [decode(raw, Decision, bytes_max=len(raw)) for raw in decisions] == [
        ledger.model.decisions[height] for height in (2, 3)
    ]
    for height, block in zip((2, 3), found["blocks"], strict=True):
        assert block["receipts"] == encode(ledger.model.receipts[height]).hex()
        assert len(block["batches"]) == 1
        assert bytes.fromhex(block["batches"][0]) in [
            batch.raw for batch in ledger.model.batches.values()
        ]


def test_what_cannot_be_read_is_answered_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [{"number": n, "path": str(tmp_path / "absent"), "above": None} for n in (1, 2)]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    main()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["number"] for answer in answers] == [1, 2]
    assert all("cannot be opened" in answer["error"] for answer in answers)
