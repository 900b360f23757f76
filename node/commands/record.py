"""`medpact record`: commit to files, and show what the ledger knows of a record.

Only a salted commitment and labels go to the ledger. The salt and the fingerprints of the segments
are written to a sidecar first: without it nobody could ever show what the commitment stands for.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ledger.fingerprint import (
    SALT_BYTES,
    SIDECAR_VERSION,
    Fingerprinter,
    FingerprintError,
    Sidecar,
    commitment,
    encode_sidecar,
)
from ledger.operations import Labels, RegisterRecord
from ledger.state import record_id
from node.arguments import IdType, LabelType, shown_time
from node.commands.outcome import finish, wait_option
from node.config import load_config
from node.console import (
    PATH,
    CommandError,
    ExitCode,
    Steps,
    emit_fields,
    home_path,
    options,
    progress,
)
from node.files import PRIVATE_MODE, chunks, open_data, size_of, write_new
from node.home import Home, HomeError, printable, reason
from node.submission import Sent, ask, site, submit


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file, fingerprinted, on its way to the ledger."""

    file: Path
    operation: RegisterRecord
    sidecar: Sidecar
    sidecar_path: Path

    @property
    def id(self) -> str:
        """The record id, in hex."""
        return self.sidecar.record.hex()


@click.group()
def record() -> None:
    """Register files and show records."""


@record.command()
@options
@wait_option
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=PATH)
@click.option("--subject", type=IdType("person"), help="The person whom the data is about.")
@click.option("--category", required=True, type=LabelType(), help="Such as imaging or lab-report.")
@click.option("--sensitivity", default="normal", show_default=True, type=LabelType())
@click.option("--jurisdiction", type=LabelType(), help="Default: this institution's region.")
@click.option("--source", type=LabelType(), help="Default: this institution's id.")
@click.option("--quality", default="unrated", show_default=True, type=LabelType())
@click.option(
    "--sidecar",
    type=PATH,
    help="Where to write the sidecar (of several files: a directory). Default: the home.",
)
def register(
    files: tuple[Path, ...],
    subject: bytes | None,
    category: str,
    sensitivity: str,
    jurisdiction: str | None,
    source: str | None,
    quality: str,
    sidecar: Path | None,
    wait: bool,
) -> None:
    """Commit to files on the ledger; this institution becomes their custodian.

    Neither content nor name of a file leaves this machine. All files of one call are registered
    together where the ledger's limits allow.
    """
    where = site()
    sizes = [size_of(file) for file in files]
    targets = [_sidecar_target(where.config.home, sidecar, len(files)) for _ in files]
    key = where.node_key()
    me = where.member
    place = jurisdiction or me["region"]
    labels = Labels(category, sensitivity, place, source or me["id"], quality)
    prepared: list[Prepared] = []
    with progress("Fingerprinting", sum(sizes)) as steps:
        for file, target in zip(files, targets, strict=True):
            prepared.append(prepare(file, me["id"], labels, subject, target, steps))

    def keep() -> None:
        for one in prepared:
            write_new(one.sidecar_path, encode_sidecar(one.sidecar), PRIVATE_MODE)

    operations = [one.operation for one in prepared]
    sent = submit(where, key, operations, wait=wait, before=keep)
    _drop_refused(sent, prepared)
    _report(sent, prepared, wait)


def _sidecar_target(home: Home, given: Path | None, count: int) -> Path:
    """The file or directory for sidecars; raises StartError or a usage error."""
    if given is None:
        try:
            home.sidecars.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise HomeError(
                f"{printable(home.sidecars)} cannot be made: {reason(error)}."
            ) from error
        return home.sidecars
    if count > 1 and not given.is_dir():
        raise click.UsageError(
            f"--sidecar must name a directory that exists when {count} files are registered; "
            f"{printable(given)} is none."
        )
    return given


def prepare(
    file: Path,
    custodian: str,
    labels: Labels,
    subject: bytes | None,
    target: Path,
    steps: Steps,
) -> Prepared:
    """Fingerprint a file; its sidecar is to go into, or if that is no directory to, `target`."""
    with open_data(file) as f:
        fingerprinter = Fingerprinter(os.fstat(f.fileno()).st_size)
        try:
            for chunk in chunks(file, f, steps):
                fingerprinter.update(chunk)
            opening = fingerprinter.finish(secrets.token_bytes(SALT_BYTES))
        except FingerprintError as error:
            raise CommandError(
                f"{printable(file)} changed while it was read; register it when it is complete.",
                ExitCode.FILE,
                file=printable(file),
            ) from error
    digest = commitment(opening)
    identity = record_id(custodian, digest)
    path = target / Home.sidecar_name(identity) if target.is_dir() else target
    sidecar = Sidecar(SIDECAR_VERSION, identity, custodian, opening)
    return Prepared(file, RegisterRecord(digest, labels, subject), sidecar, path)


def _drop_refused(sent: Sequence[Sent], prepared: Sequence[Prepared]) -> None:
    """Remove the sidecars of records that the ledger refused: these commitments mean nothing."""
    refused = [operation for one in sent if one.is_refused for operation in one.signed.operations]
    for one in prepared:
        if one.operation in refused:
            one.sidecar_path.unlink(missing_ok=True)


def _report(sent: Sequence[Sent], prepared: Sequence[Prepared], wait: bool) -> None:
    records = [
        {
            "file": printable(one.file),
            "record": one.id,
            "commitment": one.operation.commitment.hex(),
            "bytes": one.sidecar.opening.size,
            "sidecar": printable(one.sidecar_path),
        }
        for one in prepared
    ]
    fields: list[tuple[str, object]] = []
    for one in records:
        fields += [("file", one["file"]), ("record", one["record"]), ("sidecar", one["sidecar"])]
    finish(sent, {"records": records}, fields, wait=wait)


@record.command()
@options
@click.argument("record", type=IdType("record"))
def show(record: bytes) -> None:
    """Show a record: labels, custodian, subject, and everything that happened to it."""
    config = load_config(home_path())
    found = ask(config, "record_get", id=record.hex())
    entries = _history(config, record)
    sidecar = config.home.sidecar(record)
    held = printable(sidecar) if sidecar.exists() else None
    labels = found["labels"]
    fields: list[tuple[str, object]] = [
        ("record", found["id"]),
        ("custodian", found["custodian"]),
        ("subject", found["subject"] or "none"),
        ("commitment", found["commitment"]),
        ("labels", ", ".join(f"{name} {value}" for name, value in labels.items())),
        ("sidecar", held or "not in this home"),
    ]
    for entry in entries:
        author = entry["author"].get("institution") or entry["author"].get("person") or "unknown"
        what = f"{entry['operation']['operation']} by {author}, transaction {entry['transaction']}"
        fields.append((f"block {entry['height']}", f"{shown_time(entry['time_ms'])}  {what}"))
    emit_fields({**found, "sidecar": held, "history": entries}, fields)


def _history(config: Any, record: bytes) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    above: int | None = 0
    while above is not None:
        page = ask(config, "record_history", id=record.hex(), above=above, limit=1000)
        entries += page["entries"]
        above = page["next_above"]
    return entries
