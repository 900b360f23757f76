"""`medpact proof`: export proofs from a node, and verify them anywhere without one.

Nothing here but `export` may import network code: a verifier needs neither node nor network.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from ledger.fingerprint import (
    SIDECAR_BYTES_MAX,
    FingerprintError,
    Opening,
    Sidecar,
    decode_sidecar,
)
from ledger.genesis import GENESIS_BYTES_MAX, Genesis, GenesisError, parse_genesis
from ledger.proof_files import (
    PROOF_BYTES_MAX,
    PROOF_MAGIC,
    RecordProof,
    Verdict,
    decode_proof,
    encode_proof,
)
from ledger.proofs import ProofError, verify_proof
from node.arguments import IdType
from node.commands.verdict import document_of, show_verdict
from node.console import (
    PATH,
    CommandError,
    ExitCode,
    emit,
    emit_fields,
    home_path,
    json_option,
    options,
    progress,
)
from node.files import PRIVATE_MODE, chunks, open_data, read_small, size_of, write_new
from node.home import printable

if TYPE_CHECKING:
    from node.config import Config


@click.group()
def proof() -> None:
    """Export proofs, and verify them offline."""


@proof.command()
@options
@click.argument("subject", metavar="TX|RECORD", type=IdType("transaction or record"))
@click.option("-o", "--output", required=True, type=PATH)
@click.option(
    "--chain",
    "chains",
    multiple=True,
    type=IdType("record or person"),
    help="Show a transaction's entries in the chain of this record or person, too.",
)
@click.option(
    "--without-opening",
    is_flag=True,
    help="Leave out salt and segment fingerprints: the proof then fits no file by itself.",
)
@click.option("--absent", is_flag=True, help="Prove that no record has this id.")
def export(
    subject: bytes, output: Path, chains: tuple[bytes, ...], without_opening: bool, absent: bool
) -> None:
    """Write a proof of a transaction, or of a record with its whole history, to a file.

    With the sidecar of a record in the home, the proof also shows which file the record is; whoever
    gets such a proof can recognise the file.
    """
    from node.config import load_config

    config = load_config(home_path())
    kind, content = _fetch(config, subject, chains, absent)
    sidecar_path = config.home.sidecar(subject)
    opened = kind == "record" and not without_opening and sidecar_path.exists()
    if opened:
        content = _with_opening(content, _sidecar(sidecar_path))
    write_new(output, content, PRIVATE_MODE)
    document = {
        "file": printable(output),
        "kind": kind,
        "bytes": len(content),
        "has_opening": opened,
    }
    shown = {**document, "has_opening": "yes" if opened else "no"}
    emit_fields(document, [(name.replace("_", " "), value) for name, value in shown.items()])


def _fetch(
    config: "Config", subject: bytes, chains: tuple[bytes, ...], absent: bool
) -> tuple[str, bytes]:
    """The kind and the bytes of the proof file that the node makes; raises CommandError."""
    from node.submission import ask, find

    identity = subject.hex()
    if find(config, "transaction_get", id=identity) is not None:
        shown = [chain.hex() for chain in chains]
        answer = ask(config, "proof_transaction", id=identity, chains=shown)
        return "transaction", bytes.fromhex(answer["proof"])
    exists = find(config, "record_get", id=identity) is not None
    if not exists and not absent:
        raise CommandError(
            f"The ledger holds no transaction or record {identity}; check the id, or give "
            "--absent to prove that there is no such record.",
            ExitCode.REFUSED,
        )
    answer = ask(config, "proof_record", id=identity)
    return "record" if exists else "absence", bytes.fromhex(answer["proof"])


def _with_opening(content: bytes, sidecar: Sidecar) -> bytes:
    found = decode_proof(content)
    if not isinstance(found, RecordProof) or found.record != sidecar.record:
        raise CommandError("The sidecar in the home is another record's.", ExitCode.FILE)
    return encode_proof(msgspec.structs.replace(found, opening=sidecar.opening))


@proof.command()
@json_option
@click.argument("file", type=PATH)
@click.option(
    "--genesis",
    "genesis_file",
    required=True,
    type=PATH,
    help="The ledger's genesis file: all that has to be trusted.",
)
@click.option("--file", "data", type=PATH, help="Data that should be the record's.")
@click.option(
    "--sidecar",
    "sidecar_file",
    type=PATH,
    help="The record's sidecar, if the proof was exported without opening.",
)
def verify(file: Path, genesis_file: Path, data: Path | None, sidecar_file: Path | None) -> None:
    """Check a proof file offline, and say what it proves and what not."""
    content = read_small(file, PROOF_BYTES_MAX + len(PROOF_MAGIC))
    genesis = read_genesis_file(genesis_file)
    opening = None if sidecar_file is None else _sidecar(sidecar_file).opening
    try:
        verdict = _verify(content, genesis, opening, data)
    except ProofError as error:
        raise CommandError(
            f"{printable(file)} proves nothing. {error}", ExitCode.REFUSED, verified=False
        ) from error
    emit(document_of(verdict), lambda: show_verdict(verdict))


def _verify(
    content: bytes, genesis: Genesis, opening: Opening | None, data: Path | None
) -> Verdict:
    if data is None:
        return verify_proof(content, genesis, None, opening)
    with open_data(data) as f, progress("Reading", size_of(data)) as steps:
        return verify_proof(content, genesis, chunks(data, f, steps), opening)


def read_genesis_file(path: Path) -> Genesis:
    """A genesis file named on the command line; raises CommandError."""
    try:
        return parse_genesis(read_small(path, GENESIS_BYTES_MAX))
    except GenesisError as error:
        raise CommandError(
            f"The genesis file {printable(path)} cannot be used. {error}", ExitCode.REFUSED
        ) from error


def _sidecar(path: Path) -> Sidecar:
    try:
        return decode_sidecar(read_small(path, SIDECAR_BYTES_MAX))
    except FingerprintError as error:
        raise CommandError(
            f"The sidecar {printable(path)} cannot be used. {error}", ExitCode.REFUSED
        ) from error
