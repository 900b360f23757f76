"""The methods over real blocks: every read, submitting and waiting, proofs that verify offline."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.fingerprint import Fingerprinter, commitment
from ledger.genesis import parse_genesis
from ledger.operations import (
    Grant,
    InstitutionParty,
    Labels,
    PersonParty,
    RecordShare,
    RegisterRecord,
    Revoke,
)
from ledger.proofs import verify_proof
from ledger.receipts import ReceiptCode
from ledger.state import grant_id, institution_chain, person_id, record_id
from node.client import RpcClient
from node.jsonrpc import ErrorCode
from node.methods import reads
from node.methods.table import METHODS
from node.methods.views import MEANINGS
from primitives.codec import encode
from tests.node.rpc_support import START_MS, Served, fails, key_of, served, until

LABELS = Labels("imaging", "normal", "CN-GD", "pacs", "good")
DATA = b"a scan of a knee"


class Story:
    """A patient's record, granted, shared, revoked, and refused."""

    def __init__(self, node: Served) -> None:
        self.node = node
        fingerprinter = Fingerprinter(len(DATA))
        fingerprinter.update(DATA)
        self.opening = fingerprinter.finish(b"s" * 32)
        self.commitment = commitment(self.opening)
        self.patient = person_id(key_of("patient").public)
        self.record = record_id("recorder-1", self.commitment)
        self.grant = b""
        self.ids: dict[str, str] = {}

    async def _do(self, name: str, author: str, *operations: Any) -> bytes:
        raw = self.node.backend.sign(author, *operations)
        await self.node.backend.block(raw)
        self.ids[name] = self.node.backend.id_of(raw)
        return bytes.fromhex(self.ids[name])

    async def tell(self) -> None:
        backend = self.node.backend
        requester = InstitutionParty("recorder-2")
        await backend.block(backend.enrolment_of("patient"))
        await self._do(
            "register", "recorder-1", RegisterRecord(self.commitment, LABELS, self.patient)
        )
        granted = await self._do("grant", "patient", Grant(requester, (self.record,), "HRESCH", 0))
        self.grant = grant_id(granted, 0)
        share = RecordShare(self.record, requester, self.grant, self.commitment, "HRESCH")
        await self._do("share", "recorder-1", share)
        await self._do("revoke", "patient", Revoke(self.grant))
        await self._do("refused", "recorder-1", share)


async def told(node: Served) -> Story:
    story = Story(node)
    await story.tell()
    return story


# ---- reads --------------------------------------------------------------------------------------


async def test_head_block_and_genesis(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        genesis = await node.rpc.call("block_get", height=0)
        assert genesis["committed_view"] is None
        assert (genesis["signers"], genesis["transactions"]) == ([], [])
        story = await told(node)
        head = await node.rpc.call("chain_head")
        assert head["height"] == 6
        block = await node.rpc.call("block_get", hash=head["hash"])
        assert block == await node.rpc.call("block_get", height=6)
        assert block["header"] == head
        assert (
            block["header"]["parent_hash"]
            == ((await node.rpc.call("block_get", height=5))["header"]["hash"])
        )
        assert block["transactions"] == [
            {"id": story.ids["refused"], "code": 21, "name": "GRANT_REVOKED"}
        ]
        assert (block["committed_view"], len(block["signers"])) == (0, 3)
        found = await node.rpc.call("genesis_get")
        assert found["chain_id"] == head["chain_id"]
        assert parse_genesis(found["toml"].encode()).chain_id.hex() == found["chain_id"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, ErrorCode.INVALID_PARAMS),
        ({"height": 1, "hash": "0" * 64}, ErrorCode.INVALID_PARAMS),
        ({"height": 1}, ErrorCode.NOT_FOUND),
        ({"height": 2**63 - 1}, ErrorCode.NOT_FOUND),
        ({"height": 2**63}, ErrorCode.INVALID_PARAMS),
        ({"hash": "0" * 64}, ErrorCode.NOT_FOUND),
        ({"hash": "0" * 63}, ErrorCode.INVALID_PARAMS),
        ({"hash": "0" * 63 + "\n"}, ErrorCode.INVALID_PARAMS),
        ({"hash": "0" * 64 + "\n"}, ErrorCode.INVALID_PARAMS),
        ({"hash": "0x" + "0" * 62}, ErrorCode.INVALID_PARAMS),
        ({"hash": 5}, ErrorCode.INVALID_PARAMS),
    ],
)
async def test_blocks_that_are_not_there(
    tmp_path: Path, params: dict[str, object], code: ErrorCode
) -> None:
    async with served(tmp_path) as node:
        assert (await fails(node.rpc.call("block_get", params))).code == code


async def test_params_by_position_and_by_name_are_the_same(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        for params, found in (("[0]", 0), ("[null,0]", None), ("[0,null,0]", None), ("{}", None)):
            call = f'{{"jsonrpc":"2.0","method":"block_get","params":{params},"id":1}}'
            answered = json.loads(await post(node, call))
            assert answered.get("result", {}).get("header", {}).get("height") == found
            if found is None:
                assert answered["error"]["code"] == ErrorCode.INVALID_PARAMS


async def post(node: Served, text: str) -> bytes:
    http = node.rpc._http()
    headers = {"Content-Type": "application/json"}
    async with http.post("http://localhost/", data=text.encode(), headers=headers) as response:
        return await response.read()


async def test_hex_is_read_in_either_case(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        story = await told(node)
        found = await node.rpc.call("record_get", id=story.record.hex().upper())
        assert found["id"] == story.record.hex()


async def test_record_person_grant_and_institutions(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        story = await told(node)
        record = await node.rpc.call("record_get", id=story.record.hex())
        assert record == {
            "id": story.record.hex(),
            "commitment": story.commitment.hex(),
            "labels": {
                "category": "imaging",
                "sensitivity": "normal",
                "jurisdiction": "CN-GD",
                "source": "pacs",
                "quality": "good",
            },
            "custodian": "recorder-1",
            "subject": story.patient.hex(),
            "entries": 4,
        }
        person = await node.rpc.call("person_get", id=story.patient.hex())
        assert person["key"] == key_of("patient").public.hex()
        assert (person["kind"], person["attested_by"]) == ("patient", "recorder-1")
        grant = await node.rpc.call("grant_get", id=story.grant.hex())
        assert grant["grantor"] == {"person": story.patient.hex()}
        assert grant["grantee"] == {"institution": "recorder-2"}
        assert (grant["state"], grant["revoked_height"]) == ("revoked", 5)
        members = (await node.rpc.call("institution_list"))["institutions"]
        assert [member["id"] for member in members] == [f"recorder-{n}" for n in range(1, 5)]
        assert members[0]["consensus_class"] == "recorder"
        assert members[0]["key"] == key_of("recorder-1").public.hex()


async def test_the_state_of_a_grant_follows_the_head(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        backend = node.backend
        await backend.block(backend.enrolment_of("patient"))
        grant = Grant(InstitutionParty("recorder-2"), (), "TREAT", START_MS + 4)
        raw = backend.sign("patient", grant)
        await backend.block(raw)
        identity = grant_id(bytes.fromhex(backend.id_of(raw)), 0).hex()
        states = []
        for number in range(3):
            states.append((await node.rpc.call("grant_get", id=identity))["state"])
            await backend.block(backend.enrolment(number))
        assert states == ["valid", "valid", "expired"]


@pytest.mark.parametrize(
    "method",
    [
        "transaction_get",
        "record_get",
        "person_get",
        "grant_get",
        "record_history",
        "person_history",
        "proof_transaction",
    ],
)
async def test_ids_of_nothing_or_of_something_else_are_not_found(
    tmp_path: Path, method: str
) -> None:
    async with served(tmp_path) as node:
        story = await told(node)
        own = {"record": story.record.hex(), "person": story.patient.hex()}
        strangers = ["0" * 64, institution_chain("recorder-1").hex(), story.grant.hex()]
        strangers += [id for kind, id in own.items() if not method.startswith(kind)]
        if method == "grant_get":
            strangers.remove(story.grant.hex())
        for stranger in strangers:
            error = await fails(node.rpc.call(method, id=stranger))
            assert error.code == ErrorCode.NOT_FOUND
            assert error.sentence.endswith(".")


async def test_a_transaction_is_told_in_readable_form(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        story = await told(node)
        operations = {}
        for name, identity in story.ids.items():
            view = await node.rpc.call("transaction_get", id=identity)
            assert (view["id"], view["index"]) == (identity, 0)
            operations[name] = view["operations"]
            if name == "refused":
                assert (view["code"], view["name"]) == (21, "GRANT_REVOKED")
                assert (view["meaning"], view["failed_operation"]) == (
                    "the grant has been revoked",
                    0,
                )
            else:
                assert (view["code"], view["name"], view["meaning"]) == (0, "OK", "done")
                assert "failed_operation" not in view
        assert operations["register"][0]["record"] == story.record.hex()
        assert operations["grant"][0]["grant"] == story.grant.hex()
        assert operations["grant"][0]["records"] == [story.record.hex()]
        assert operations["revoke"] == [{"operation": "revoke", "grant": story.grant.hex()}]
        assert operations["share"] == operations["refused"]
        assert operations["share"][0]["requester"] == {"institution": "recorder-2"}
        view = await node.rpc.call("transaction_get", id=story.ids["grant"])
        assert view["author"] == {"person": story.patient.hex()}
        assert view["author_key"] == key_of("patient").public.hex()
        assert view["time_ms"] == (await node.rpc.call("block_get", height=3))["header"]["time_ms"]


async def test_an_unknown_author_and_a_failed_register_are_told(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        backend = node.backend
        register = RegisterRecord(b"c" * 32, LABELS, None)
        await backend.block(backend.enrolment_of("patient"))
        for author, code in (("stranger", "UNKNOWN_AUTHOR"), ("patient", "NOT_AN_INSTITUTION")):
            raw = backend.sign(author, register)
            await backend.block(raw)
            view = await node.rpc.call("transaction_get", id=backend.id_of(raw))
            assert view["name"] == code
            assert "record" not in view["operations"][0]
            assert ("person" in view["author"]) == (author == "patient")


async def test_transactions_of_several_batches_are_found_by_place(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        raws = [node.backend.enrolment(n) for n in range(7)]
        await node.backend.block(*raws, batches=3)
        for index, raw in enumerate(raws):
            view = await node.rpc.call("transaction_get", id=node.backend.id_of(raw))
            assert (view["height"], view["index"]) == (1, index)


# ---- histories ----------------------------------------------------------------------------------


async def test_a_history_is_complete_and_in_order(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        story = await told(node)
        history = await node.rpc.call("record_history", id=story.record.hex())
        assert (history["next_above"], history["head_height"]) == (None, 6)
        told_of = [(e["height"], e["operation"]["operation"]) for e in history["entries"]]
        assert told_of == [(2, "register_record"), (3, "grant"), (4, "record_share"), (5, "revoke")]
        assert history["entries"][1]["author"] == {"person": story.patient.hex()}
        assert history["entries"][2]["transaction"] == story.ids["share"]
        person = await node.rpc.call("person_history", id=story.patient.hex())
        assert [e["height"] for e in person["entries"]] == [1, 2, 3, 4, 5]
        requester = await node.rpc.call("institution_history", id="recorder-2")
        assert [e["height"] for e in requester["entries"]] == [3, 4, 5]
        assert (await node.rpc.call("institution_history", id="recorder-3"))["entries"] == []
        error = await fails(node.rpc.call("institution_history", id="recorder-9"))
        assert error.code == ErrorCode.NOT_FOUND


async def paged(node: Served, limit: int) -> list[Any]:
    entries: list[Any] = []
    above: int | None = 0
    while above is not None:
        page = await node.rpc.call("institution_history", id="recorder-1", above=above, limit=limit)
        entries += page["entries"]
        assert page["next_above"] is None or page["next_above"] > above
        above = page["next_above"]
    return entries


async def test_pages_of_a_history_join_without_gap_or_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as node:
        number = 0
        for size in (3, 1, 4, 1, 5):
            await node.backend.block(*(node.backend.enrolment(number + n) for n in range(size)))
            number += size
        whole = (await node.rpc.call("institution_history", id="recorder-1"))["entries"]
        assert [(e["height"], e["index"]) for e in whole] == [
            (h, i) for h, size in enumerate((3, 1, 4, 1, 5), 1) for i in range(size)
        ]
        for limit in (1, 2, 3, 5, 13, 14, 15):
            assert await paged(node, limit) == whole
        monkeypatch.setattr(reads, "HISTORY_SCAN_MAX", 2)
        assert await paged(node, 1000) == whole
        monkeypatch.setattr(reads, "HISTORY_BLOCKS_MAX", 1)
        assert await paged(node, 1000) == whole


# ---- submitting and waiting ---------------------------------------------------------------------


async def test_submitting_answers_at_once_one_by_one_and_again(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        good, other = node.backend.enrolment(1), node.backend.enrolment(2)
        forged = bytes([*other[:-1], other[-1] ^ 1])
        texts = [good.hex(), "zz", "", forged.hex(), good.hex().upper(), good.hex()[:-2]]
        answer = await node.rpc.call("transaction_submit", transactions=texts)
        outcomes = answer["transactions"]
        identity = node.backend.id_of(good)
        assert [one["id"] for one in outcomes] == [identity, None, None, None, identity, None]
        assert ["refused" in one for one in outcomes] == [False, True, True, True, False, True]
        assert "signature" in outcomes[3]["refused"]
        assert node.backend.taken == [good]
        await node.backend.block()
        answer = await node.rpc.call("transaction_submit", transactions=[good.hex()])
        assert answer["transactions"] == [{"id": identity}]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, ErrorCode.INVALID_PARAMS),
        ({"transactions": []}, ErrorCode.INVALID_PARAMS),
        ({"transactions": "00"}, ErrorCode.INVALID_PARAMS),
        ({"transactions": [5]}, ErrorCode.INVALID_PARAMS),
        ({"transactions": ["00"], "wait": True}, ErrorCode.INVALID_PARAMS),
        ({"transactions": ["00"] * 11}, ErrorCode.TOO_LARGE),
    ],
)
async def test_submissions_of_a_wrong_form(
    tmp_path: Path, params: dict[str, object], code: ErrorCode
) -> None:
    async with served(tmp_path, submit_transactions_max=10) as node:
        assert (await fails(node.rpc.call("transaction_submit", params))).code == code
        assert node.backend.taken == []


@pytest.mark.parametrize("remembers", [False, True])
async def test_waiting_ends_when_all_have_run(tmp_path: Path, remembers: bool) -> None:
    async with served(tmp_path) as node:
        node.backend.remembers = remembers
        raws = [node.backend.enrolment(n) for n in range(3)]
        ids = [node.backend.id_of(raw) for raw in raws]
        await node.backend.block(raws[0])
        wait = asyncio.create_task(node.rpc.call("transaction_wait", ids=[*ids, ids[0]]))
        await node.backend.block(raws[1])
        await node.backend.block(node.backend.enrolment(9))
        await node.backend.block(raws[2])
        answer = await wait
        assert answer["height"] == 4
        assert [one["id"] for one in answer["transactions"]] == [*ids, ids[0]]
        assert [one["height"] for one in answer["transactions"]] == [1, 2, 4, 1]
        assert all(one["final"] and one["name"] == "OK" for one in answer["transactions"])
        assert node.server._service.waits.count == 0


async def test_a_wait_that_times_out_keeps_ids_and_what_is_known(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        known, unknown = node.backend.enrolment(1), node.backend.enrolment(2)
        await node.backend.block(known)
        ids = [node.backend.id_of(known), node.backend.id_of(unknown)]
        answer = await node.rpc.call("transaction_wait", ids=ids, timeout_ms=1)
        assert [one["final"] for one in answer["transactions"]] == [True, False]
        assert answer["transactions"][1] == {"id": ids[1], "final": False}


@pytest.mark.parametrize("remembers", [False, True])
async def test_a_transaction_that_expired_unrun_is_final_to_who_waits(
    tmp_path: Path, remembers: bool
) -> None:
    async with served(tmp_path) as node:
        node.backend.remembers = remembers
        raw = node.backend.sign("recorder-1", Revoke(b"g" * 32), until_ms=START_MS)
        ids = [node.backend.id_of(raw)]
        wait = asyncio.create_task(node.rpc.call("transaction_wait", ids=ids))
        await until(lambda: node.server._service.waits.count)
        await node.backend.block(raw, node.backend.enrolment(1))
        (outcome,) = (await wait)["transactions"]
        assert (outcome["final"], outcome["name"], outcome["height"]) == (True, "EXPIRED", 1)
        assert (
            await fails(node.rpc.call("transaction_get", id=ids[0]))
        ).code == ErrorCode.NOT_FOUND


async def test_a_wait_reads_no_block_that_is_in_memory(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        node.backend.remembers = True
        raws = [node.backend.enrolment(number) for number in range(50)]
        ids = [node.backend.id_of(raw) for raw in raws]
        wait = asyncio.create_task(node.rpc.call("transaction_wait", ids=ids))
        await until(lambda: node.server._service.waits.count)
        reads = 0

        def counted(height: int) -> None:
            nonlocal reads
            reads += 1

        node.server._service._reader.receipts = counted  # type: ignore[union-attr, method-assign]
        await node.backend.block(*raws)
        assert all(one["final"] for one in (await wait)["transactions"])
        assert reads == 0


@pytest.mark.parametrize("remembers", [False, True])
async def test_a_replay_does_not_change_the_outcome(tmp_path: Path, remembers: bool) -> None:
    async with served(tmp_path) as node:
        node.backend.remembers = remembers
        raw = node.backend.enrolment(1)
        ids = [node.backend.id_of(raw)]
        await node.backend.block(raw)
        await node.backend.block(raw, node.backend.enrolment(2))
        answer = await node.rpc.call("transaction_wait", ids=ids)
        assert (answer["transactions"][0]["height"], answer["transactions"][0]["name"]) == (1, "OK")
        block = await node.rpc.call("block_get", height=2)
        assert [one["name"] for one in block["transactions"]] == ["REPLAYED", "OK"]


async def test_which_operation_failed_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        raw = node.backend.sign(
            "recorder-1", RegisterRecord(b"c" * 32, LABELS, None), Revoke(b"g" * 32)
        )
        await node.backend.block(raw)
        (outcome,) = (await node.rpc.call("transaction_wait", ids=[node.backend.id_of(raw)]))[
            "transactions"
        ]
        assert (outcome["name"], outcome["failed_operation"]) == ("UNKNOWN_GRANT", 1)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"ids": []}, ErrorCode.INVALID_PARAMS),
        ({"ids": ["x"]}, ErrorCode.INVALID_PARAMS),
        ({"ids": ["0" * 64], "timeout_ms": -1}, ErrorCode.INVALID_PARAMS),
        ({"ids": ["0" * 64], "timeout_ms": 0.5}, ErrorCode.INVALID_PARAMS),
        ({"ids": ["0" * 64], "timeout_ms": 2**63 - 1}, ErrorCode.INVALID_PARAMS),
        ({"ids": ["0" * 64] * 3}, ErrorCode.TOO_LARGE),
    ],
)
async def test_waits_of_a_wrong_form(
    tmp_path: Path, params: dict[str, object], code: ErrorCode
) -> None:
    async with served(tmp_path, wait_ids_max=2) as node:
        assert (await fails(node.rpc.call("transaction_wait", params))).code == code


async def test_waits_are_limited(tmp_path: Path) -> None:
    async with served(tmp_path, waits_max=1) as node:
        raw = node.backend.enrolment(1)
        ids = [node.backend.id_of(raw)]
        first = asyncio.create_task(node.rpc.call("transaction_wait", ids=ids))
        await until(lambda: node.server._service.waits.count)
        assert (await fails(node.rpc.call("transaction_wait", ids=ids))).code == ErrorCode.BUSY
        await node.backend.block(raw)
        assert (await first)["transactions"][0]["final"]
        assert (await node.rpc.call("transaction_wait", ids=ids))["transactions"][0]["final"]


async def test_waits_fail_when_nobody_follows_the_chain_any_more(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        wait = asyncio.create_task(node.rpc.call("transaction_wait", ids=["0" * 64]))
        await until(lambda: node.server._service.waits.count)

        def broken(height: int) -> None:
            raise OSError("disk")

        node.server._service._reader.receipts = broken  # type: ignore[union-attr, method-assign]
        await node.backend.block(node.backend.enrolment(1))
        assert not (await wait)["transactions"][0]["final"]
        assert node.log.lines == [("rpc_follower_failed", {"error": "OSError"})]
        error = await fails(node.rpc.call("transaction_wait", ids=["0" * 64]))
        assert error.code == ErrorCode.STOPPING


# ---- proofs -------------------------------------------------------------------------------------


async def test_proofs_verify_offline(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        story = await told(node)
        genesis = node.backend.genesis
        answer = await node.rpc.call(
            "proof_transaction", id=story.ids["share"], chains=[story.record.hex()]
        )
        verdict = verify_proof(bytes.fromhex(answer["proof"]), genesis)
        assert verdict.transaction_id == bytes.fromhex(story.ids["share"])
        assert (verdict.code, verdict.chains) == (ReceiptCode.OK, (story.record,))
        answer = await node.rpc.call(
            "proof_record", id=story.record.hex(), opening=encode(story.opening).hex()
        )
        verdict = verify_proof(bytes.fromhex(answer["proof"]), genesis, [DATA])
        assert (verdict.height, len(verdict.operations)) == (6, 4)
        assert verdict.data_checked
        answer = await node.rpc.call("proof_record", id="0" * 64)
        assert verify_proof(bytes.fromhex(answer["proof"]), genesis).record is None


async def test_proofs_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path) as node:
        error = await fails(node.rpc.call("proof_record", id="0" * 64))
        assert error.code == ErrorCode.NOT_FOUND
        story = await told(node)
        for opening in ("zz", "00", encode(PersonParty(b"p" * 32)).hex()):
            error = await fails(
                node.rpc.call("proof_record", id=story.record.hex(), opening=opening)
            )
            assert error.code == ErrorCode.INVALID_PARAMS
        error = await fails(
            node.rpc.call("proof_transaction", id=story.ids["share"], chains=["0" * 64])
        )
        assert error.code == ErrorCode.NOT_FOUND
        monkeypatch.setattr("node.methods.proofs.PROOF_BYTES_MAX", 100)
        error = await fails(node.rpc.call("proof_record", id=story.record.hex()))
        assert error.code == ErrorCode.TOO_LARGE


# ---- all of them --------------------------------------------------------------------------------


def test_every_receipt_code_has_a_meaning() -> None:
    assert list(MEANINGS) == list(ReceiptCode)


async def test_after_the_stop_nothing_is_read(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        service = node.server._service
        await node.server.stop()
        await fails(service.read(lambda reader: reader.head_height()))


json_params = st.dictionaries(
    st.sampled_from(["id", "ids", "height", "hash", "transactions", "above", "limit", "chains"])
    | st.text(max_size=3),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["0" * 64, "ff" * 32]),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ),
    max_size=3,
)


def test_no_params_make_a_method_fail_inside(tmp_path: Path) -> None:
    """Whatever is asked, the answer is a result or a typed error, and nothing is logged."""
    loop = asyncio.new_event_loop()
    names = [name for name, method in METHODS.items() if name != "transaction_wait"]

    async def ask(rpc: RpcClient, name: str, params: Any) -> None:
        text = json.dumps({"jsonrpc": "2.0", "method": name, "params": params, "id": 1})
        async with rpc._http().post(
            "http://localhost/", data=text, headers={"Content-Type": "application/json"}
        ) as response:
            answered = await response.json()
        assert "result" in answered or answered["error"]["code"] != ErrorCode.INTERNAL_ERROR

    context = served(tmp_path, calls_burst_max=10**6)
    node = loop.run_until_complete(context.__aenter__())
    try:
        loop.run_until_complete(told(node))

        @given(st.sampled_from(names), json_params)
        def holds(name: str, params: Any) -> None:
            loop.run_until_complete(ask(node.rpc, name, params))

        holds()
        assert node.log.lines == []
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))
        loop.close()
