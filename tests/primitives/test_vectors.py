"""The published vectors: tests/primitives/vectors.json, docs/protocol.md and the code agree."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from primitives.block import BlockHeader
from primitives.codec import CodecError, decode, encode
from primitives.hashing import digest
from primitives.institution import Institution, check_institution
from primitives.keys import PrivateKey, verify
from primitives.merkle import (
    InclusionProof,
    check,
    prove,
    sized_root,
    tree_root,
    verify_inclusion,
)

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "vectors.json").read_text())
KINDS: dict[str, Any] = {"int": int, "str": str, "bytes": bytes, "list": tuple[int, ...]}
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["merkle"]["leaves"]]


def from_json(value: Any) -> Any:
    match value:
        case {"bytes": text}:
            return bytes.fromhex(text)
        case list():
            return [from_json(item) for item in value]
        case _:
            return value


@pytest.mark.parametrize("vector", VECTORS["codec"])
def test_codec(vector: dict[str, Any]) -> None:
    assert encode(from_json(vector["value"])).hex() == vector["encoding"]


@pytest.mark.parametrize("vector", VECTORS["codec_refused"])
def test_codec_refused(vector: dict[str, str]) -> None:
    with pytest.raises(CodecError):
        decode(bytes.fromhex(vector["encoding"]), KINDS[vector["kind"]], bytes_max=99)


@pytest.mark.parametrize("vector", VECTORS["hashing"])
def test_hashing(vector: dict[str, str]) -> None:
    assert digest(vector["domain"], bytes.fromhex(vector["data"])).hex() == vector["digest"]


@pytest.mark.parametrize("vector", VECTORS["keys"])
def test_keys(vector: dict[str, str]) -> None:
    key = PrivateKey(bytes.fromhex(vector["seed"]))
    message = bytes.fromhex(vector["message"])
    assert key.public.hex() == vector["public"]
    assert key.sign(message).hex() == vector["signature"]
    assert verify(key.public, message, bytes.fromhex(vector["signature"]))


@pytest.mark.parametrize("vector", VECTORS["keys_refused"])
def test_keys_refused(vector: dict[str, str]) -> None:
    public, message, signature = (
        bytes.fromhex(vector[name]) for name in ("public", "message", "signature")
    )
    assert not verify(public, message, signature)


@pytest.mark.parametrize("vector", VECTORS["merkle"]["trees"])
def test_merkle_roots(vector: dict[str, Any]) -> None:
    leaves = LEAVES[: vector["size"]]
    assert tree_root(leaves).hex() == vector["root"]
    assert sized_root(leaves).hex() == vector["sized_root"]


@pytest.mark.parametrize("vector", VECTORS["merkle"]["proofs"])
def test_merkle_proofs(vector: dict[str, Any]) -> None:
    index, size = vector["index"], vector["size"]
    leaves = LEAVES[:size]
    proof = decode(bytes.fromhex(vector["encoding"]), InclusionProof, bytes_max=3000)
    assert proof == prove(leaves, index)
    assert [step.hex() for step in proof.path] == vector["path"]
    check(leaves[index], proof, sized_root(leaves))
    verify_inclusion(leaves[index], index, size, proof.path, tree_root(leaves))


def test_header() -> None:
    vector = VECTORS["header"]
    header = decode(bytes.fromhex(vector["encoding"]), BlockHeader, bytes_max=305)
    assert fields_of(header) == list(vector["fields"].items())
    assert header.hash().hex() == vector["hash"]


def test_institution() -> None:
    vector = VECTORS["institution"]
    institution = decode(bytes.fromhex(vector["encoding"]), Institution, bytes_max=1000)
    assert fields_of(institution) == list(vector["fields"].items())
    check_institution(institution)


def fields_of(value: BlockHeader | Institution) -> list[tuple[str, Any]]:
    fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return [(name, field.hex() if isinstance(field, bytes) else field) for name, field in fields]


def hex_strings(value: Any) -> Iterator[str]:
    match value:
        case str() if re.fullmatch("([0-9a-f]{2})+", value):
            yield value
        case dict():
            for name, item in value.items():
                if name != "value":  # shown in words
                    yield from hex_strings(item)
        case list():
            for item in value:
                yield from hex_strings(item)


def test_the_page_shows_every_vector() -> None:
    page = (HERE.parents[1] / "docs" / "protocol.md").read_text()
    without_breaks = "".join(page.split())
    found = list(hex_strings(VECTORS))
    assert len(found) > 80
    for text in found:
        # A long one may be broken over lines; a short one would be found by chance.
        assert (
            f"`{text}`" in page
            or f"\n{text}\n" in page
            or (len(text) >= 64 and text in without_breaks)
        ), text
