"""The published vectors: tests/consensus/vectors.json, docs/protocol.md and the code agree."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from consensus.certificates import check_certificate, check_justification, check_view_change
from consensus.committee import Committee, Voter
from consensus.messages import (
    Certificate,
    Decision,
    Phase,
    PrePrepare,
    Signed,
    ViewChange,
    sign,
    signing_digest,
)
from primitives.block import Block
from primitives.codec import CodecError, decode, encode
from primitives.keys import PrivateKey
from tests.consensus.support import genesis, make_block, make_committee, proposal

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "vectors.json").read_text())
CHAIN_ID = bytes.fromhex(VECTORS["chain_id"])
BYTES_MAX = 10_000


def read(vector: dict[str, str], kind: Any) -> Any:
    data = bytes.fromhex(vector["encoding"])
    value = decode(data, kind, bytes_max=BYTES_MAX)
    assert encode(value) == data
    return value


VOTERS: tuple[Voter, ...] = read(VECTORS["committee"], tuple[Voter, ...])
COMMITTEE = Committee(VOTERS, tuple(voter.id for voter in VOTERS if voter.proposes))
KEYS = {
    voter.id: PrivateKey(bytes.fromhex(seed))
    for voter, seed in zip(VOTERS, VECTORS["committee"]["seeds"], strict=True)
}
BLOCK: Block = read(VECTORS["block"], Block)


def test_committee_and_block() -> None:
    assert COMMITTEE.hash.hex() == VECTORS["committee"]["hash"]
    assert [KEYS[voter.id].public for voter in VOTERS] == [voter.key for voter in VOTERS]
    assert BLOCK.hash.hex() == VECTORS["block"]["hash"]


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["name"])
def test_messages(vector: dict[str, str]) -> None:
    signed: Signed = read(vector, Signed)
    assert signing_digest(CHAIN_ID, signed.signer, signed.message).hex() == vector["digest"]
    assert signed.signature.hex() == vector["signature"]
    assert sign(CHAIN_ID, signed.signer, KEYS[signed.signer], signed.message) == signed
    match signed.message:
        case PrePrepare(height, view, block, justification):
            assert block == BLOCK
            if justification is not None:
                claim = check_justification(justification, height, view, CHAIN_ID, COMMITTEE)
                assert claim is not None
                assert claim.block_hash == BLOCK.hash
        case ViewChange() as message:
            check_view_change(message, CHAIN_ID, COMMITTEE)
        case vote:
            assert vote.block_hash == BLOCK.hash


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["name"])
def test_what_is_signed_by_another_program(vector: dict[str, str]) -> None:
    """With the msgpack package and hashlib alone, as the page describes it."""
    signer, (tag, height, view, *rest), _ = msgpack.unpackb(bytes.fromhex(vector["encoding"]))
    match tag:
        case 1:
            value: object = bytes.fromhex(VECTORS["block"]["hash"])
        case 2 | 3:
            value = rest[0]
        case _:
            value = None if rest[0] is None else [rest[0][2], rest[0][3]]
    data = msgpack.packb([CHAIN_ID, tag, height, view, value, signer])
    assert data.hex() == vector["signed_data"]
    domain = hashlib.sha256(b"medpact/consensus").digest()
    assert hashlib.sha256(domain + domain + data).hexdigest() == vector["digest"]


@pytest.mark.parametrize("vector", VECTORS["certificates"], ids=lambda vector: vector["phase"])
def test_certificates(vector: dict[str, str]) -> None:
    certificate: Certificate = read(vector, Certificate)
    check_certificate(certificate, Phase[vector["phase"]], CHAIN_ID, COMMITTEE)


def test_decision() -> None:
    decision: Decision = read(VECTORS["decision"], Decision)
    assert decision.block == BLOCK
    assert decision.certificate.block_hash == BLOCK.hash
    check_certificate(decision.certificate, Phase.COMMIT, CHAIN_ID, COMMITTEE)


def test_the_page_shows_every_vector() -> None:
    page = (HERE.parents[1] / "docs" / "protocol.md").read_text()
    without_breaks = "".join(page.split())
    shown = [
        *VECTORS["committee"].values(),
        *VECTORS["block"].values(),
        *VECTORS["decision"].values(),
        *(text for certificate in VECTORS["certificates"] for text in certificate.values()),
        *(text for message in VECTORS["messages"] for text in message.values()),
        VECTORS["chain_id"],
    ]
    for item in shown:
        for text in item if isinstance(item, list) else [item]:
            assert text in page or f"```{text}```" in without_breaks, text


def test_limits_of_what_is_decoded() -> None:
    certificate = read(VECTORS["certificates"][0], Certificate)
    entry = certificate.signatures[0]
    for spoilt in (
        Certificate(1, 7, 0, BLOCK.hash, ()),
        Certificate(4, 7, 0, BLOCK.hash, ()),
        Certificate(2, -1, 0, BLOCK.hash, ()),
        Certificate(2, 2**63, 0, BLOCK.hash, ()),
        Certificate(2, 7, 2**32, BLOCK.hash, ()),
        Certificate(2, 7, 0, BLOCK.hash + b"x", ()),
        Certificate(2, 7, 0, BLOCK.hash, (entry,) * 257),
    ):
        with pytest.raises(CodecError):
            decode(encode(spoilt), Certificate, bytes_max=100_000)
    message = proposal(make_block(genesis(make_committee(1)), "r0"))
    for signer, signature in (("", bytes(64)), ("R0", bytes(64)), ("r0", bytes(63))):
        with pytest.raises(CodecError):
            decode(encode(Signed(signer, message, signature)), Signed, bytes_max=100_000)
