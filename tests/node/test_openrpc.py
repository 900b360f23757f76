"""node/openrpc.py: the document describes what is dispatched, and docs/rpc.md tells of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from node.jsonrpc import ErrorCode
from node.methods.table import METHODS
from node.openrpc import document
from tests.node.rpc_support import served

PAGE = Path(__file__).parents[2] / "docs" / "rpc.md"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_the_document_is_served_and_complete(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        found = await node.rpc.call("rpc.discover")
    assert found == json.loads(json.dumps(document(METHODS.values(), "0.0.0")))
    assert found["openrpc"].startswith("1.")
    assert [method["name"] for method in found["methods"]] == list(METHODS)
    for method in found["methods"]:
        assert method["summary"].endswith(".")
        names = [param["name"] for param in method["params"]]
        assert names == list(METHODS[method["name"]].params.__struct_fields__)


def test_every_reference_leads_somewhere() -> None:
    found = document(METHODS.values(), "1")
    schemas = found["components"]["schemas"]
    used = list(references(found))
    assert used
    for reference in used:
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_required_params_are_marked() -> None:
    found = {method["name"]: method for method in document(METHODS.values(), "1")["methods"]}
    required = {p["name"]: p["required"] for p in found["record_history"]["params"]}
    assert required == {"id": True, "above": False, "limit": False}


def test_patterns_mean_the_same_in_other_languages() -> None:
    """JSON Schema patterns are ECMA-262's: no \\Z, no inline flags."""
    found = document(METHODS.values(), "1")
    for pattern in re.findall(r"'pattern': '([^']*)'", str(found)):
        assert "\\Z" not in pattern
        assert "(?P" not in pattern


def test_the_page_names_every_method_error_and_nothing_else() -> None:
    text = PAGE.read_text()
    told = re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE)
    assert told == list(METHODS)
    errors = dict(re.findall(r"^\| (-\d+) \| `([A-Z_]+)` \|", text, re.MULTILINE))
    assert errors == {str(int(code)): code.name for code in ErrorCode}
