"""`medpact evidence`: which voters contradicted themselves, shown and checked offline.

`verify` imports no network code: whoever checks evidence needs neither node nor network.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from ledger.genesis import Genesis
from ledger.proof_files import PROOF_BYTES_MAX, PROOF_MAGIC
from ledger.proofs import ProofError, verify_proof
from node.arguments import IdType
from node.commands.proof import read_genesis_file
from node.console import (
    PATH,
    CommandError,
    ExitCode,
    emit_fields,
    emit_table,
    home_path,
    json_option,
    options,
)
from node.files import PRIVATE_MODE, read_small, write_new
from node.home import printable
from node.methods.governance_views import evidence_view


@click.group()
def evidence() -> None:
    """Show evidence against voters, and check it offline."""


@evidence.command("list")
@options
def list_evidence() -> None:
    """List the evidence that the ledger has heard, newest first."""
    from node.config import load_config
    from node.submission import ask

    found = ask(load_config(home_path()), "evidence_list")
    rows = [
        (
            each["evidence"]["evidence"],
            each["evidence"]["signer"],
            each["evidence"]["height"],
            each["height"],
            each["reporter"],
            "suspended" if each["suspended"] else "recorded only",
        )
        for each in found["evidence"]
    ]
    titles = ("evidence", "against", "of height", "heard at", "reported by", "result")
    emit_table(found, titles, rows)


@evidence.command()
@options
@click.argument("identity", metavar="EVIDENCE", type=IdType("evidence"))
@click.option(
    "-o", "--output", type=PATH, help="Write the proof to a file that anyone can check offline."
)
def show(identity: bytes, output: Path | None) -> None:
    """Show the two statements that contradict each other, both checked here."""
    from node.config import load_config
    from node.startup import read_genesis
    from node.submission import ask

    config = load_config(home_path())
    found = ask(config, "evidence_get", id=identity.hex())
    content = bytes.fromhex(ask(config, "proof_transaction", id=found["transaction"])["proof"])
    _verify(content, read_genesis(config), "the node's answer")
    if output is not None:
        write_new(output, content, PRIVATE_MODE)
    fields = [
        *_fields(found["evidence"]),
        ("reported by", f"{found['reporter']}, heard in block {found['height']}"),
        ("result", "suspended" if found["suspended"] else "recorded only"),
        ("transaction", found["transaction"]),
        ("checked", "both signatures, and the block that heard it"),
    ]
    document = {**found, "verified": True}
    if output is not None:
        fields.append(("file", printable(output)))
        document["file"] = printable(output)
    emit_fields(document, fields)


@evidence.command()
@json_option
@click.argument("file", type=PATH)
@click.option(
    "--genesis",
    "genesis_file",
    required=True,
    type=PATH,
    help="The ledger's genesis file: all that has to be trusted.",
)
def verify(file: Path, genesis_file: Path) -> None:
    """Check evidence offline: both signatures, and that the ledger has heard it."""
    content = read_small(file, PROOF_BYTES_MAX + len(PROOF_MAGIC))
    found = _verify(content, read_genesis_file(genesis_file), printable(file))
    fields = [field for each in found["evidence"] for field in _fields(each)]
    emit_fields(found, [*fields, ("heard in block", found["height"])])


def _verify(content: bytes, genesis: Genesis, name: str) -> dict[str, Any]:
    try:
        verdict = verify_proof(content, genesis)
    except ProofError as error:
        raise CommandError(
            f"{name} proves nothing. {error}", ExitCode.REFUSED, verified=False
        ) from error
    if not verdict.evidence:
        raise CommandError(
            f"{name} is a sound proof, but of no evidence against a voter.",
            ExitCode.REFUSED,
            verified=False,
        )
    return {
        "verified": True,
        "height": verdict.height,
        "evidence": [msgspec.to_builtins(evidence_view(each)) for each in verdict.evidence],
    }


def _fields(view: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        ("evidence", view["evidence"]),
        ("against", view["signer"]),
        ("at height", view["height"]),
        ("it signed", _words(view["first"])),
        ("and also", _words(view["second"])),
    ]


def _words(statement: Mapping[str, Any]) -> str:
    view, block = statement["view"], statement.get("block_hash")
    if statement["phase"] == "VIEW-CHANGE":
        had = "no block prepared"
        if block is not None:
            had = f"block {block[:16]}… prepared in view {statement['prepared_view']}"
        return f"VIEW-CHANGE to view {view}, with {had}"
    return f"{statement['phase']} in view {view} for block {str(block)[:16]}…"
