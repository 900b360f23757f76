"""The OpenRPC document (spec.open-rpc.org) of the RPC, made from the table that dispatches its
calls.
"""

import inspect
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from node.jsonrpc import ErrorCode
from node.methods.method import Method

OPENRPC_VERSION: Final = "1.3.2"
_REFERENCE: Final = "#/components/schemas/{name}"


def document(methods: Iterable[Method], version: str) -> dict[str, Any]:
    """The document as JSON values; `version` is the software's."""
    described = list(methods)
    kinds = [kind for method in described for kind in (method.params, method.result)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    found = []
    for number, method in enumerate(described):
        params = components[method.params.__name__]
        required = params.get("required", [])
        found.append(
            {
                "name": method.name,
                "summary": method.summary,
                "description": _description(method),
                "paramStructure": "either",
                "params": [
                    {"name": name, "required": name in required, "schema": schema}
                    for name, schema in params.get("properties", {}).items()
                ],
                "result": {"name": f"{method.name}_result", "schema": schemas[2 * number + 1]},
            }
        )
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": "medpact", "version": version, "license": {"name": "Apache-2.0"}},
        "methods": found,
        "components": {
            "schemas": components,
            "errors": {code.name: {"code": int(code), "message": code.name} for code in ErrorCode},
        },
    }


def _description(method: Method) -> str:
    about = inspect.cleandoc(method.params.__doc__ or "")
    ways = ["POST"] + ["GET"] * method.by_get + ["WebSocket"]
    if method.by_websocket:
        ways = ["WebSocket"]
    return f"{about} Role: {method.role.value}. By {', '.join(ways)}."
