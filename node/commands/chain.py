"""`medpact tx show` and `medpact block show`: what the ledger holds."""

from collections.abc import Mapping
from typing import Any

import click

from node.arguments import IdType, parse_id, shown_time
from node.config import load_config
from node.console import emit_fields, home_path, options
from node.submission import ask
from primitives.codec import UINT_MAX


@click.group()
def tx() -> None:
    """Show transactions."""


@tx.command("show")
@options
@click.argument("transaction", type=IdType("transaction"))
def show_transaction(transaction: bytes) -> None:
    """Show a transaction: its block, what it says, and what became of it."""
    found = ask(load_config(home_path()), "transaction_get", id=transaction.hex())
    fields: list[tuple[str, object]] = [
        ("transaction", found["id"]),
        ("block", found["height"]),
        ("time", shown_time(found["time_ms"])),
        ("outcome", f"{found['name']}: {found['meaning']}"),
        ("author", party(found["author"]) or f"nobody known, with the key {found['author_key']}"),
    ]
    failed = found.get("failed_operation")
    for number, operation in enumerate(found["operations"]):
        mark = " (failed)" if number == failed else ""
        fields.append((f"operation {number + 1}", operation["operation"] + mark))
        fields += [(f"  {name}", _plain(name, value)) for name, value in operation.items()][1:]
    emit_fields(found, fields)


@click.group()
def block() -> None:
    """Show blocks."""


@block.command("show")
@options
@click.argument("block", metavar="HEIGHT|HASH|latest")
def show_block(block: str) -> None:
    """Show a block by its height or hash; `latest` is the newest."""
    config = load_config(home_path())
    params: dict[str, Any]
    if block == "latest":
        params = {"height": ask(config, "chain_head")["height"]}
    elif parse_id(block) is not None:
        params = {"hash": block.lower()}
    elif block.isascii() and block.isdigit() and int(block[:20]) <= UINT_MAX and len(block) <= 20:
        params = {"height": int(block)}
    else:
        raise click.UsageError(
            f"{block[:80]!a} is neither a height, nor a block hash of 64 hexadecimal digits, "
            "nor `latest`."
        )
    found = ask(config, "block_get", **params)
    header = found["header"]
    names = ((name.removesuffix("_ms").replace("_", " "), name) for name in header)
    fields = [(shown, _plain(name, header[name])) for shown, name in names]
    fields.append(("committed in view", found["committed_view"]))
    fields.append(("signers", ", ".join(found["signers"])))
    fields += [("transaction", f"{t['id']}  {t['name']}") for t in found["transactions"]]
    emit_fields(found, fields)


def party(view: Mapping[str, Any]) -> str:
    """An institution's or person's id; "" if the key was nobody's."""
    return str(view.get("institution") or view.get("person") or "")


def _plain(name: str, value: Any) -> str:
    """A value of an answer for people."""
    match value:
        case dict() if set(value) <= {"institution", "person"}:
            return party(value)
        case dict():
            return ", ".join(f"{key} {text}" for key, text in value.items())
        case list():
            return ", ".join(map(str, value))
        case int() if name.endswith("_ms"):
            return shown_time(value) if value else "never"
    return str(value)
