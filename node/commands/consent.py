"""`medpact grant`, `revoke` and `share`: who allows what, and what was handed over under it."""

from pathlib import Path

import click

from ledger.operations import GRANT_RECORDS_MAX, PURPOSES, Grant, Party, RecordShare, Revoke
from ledger.state import grant_id
from node.arguments import ExpiryType, IdType, PartyType, shown_time
from node.commands.outcome import finish, wait_option
from node.console import PATH, options
from node.keyfile import read_key
from node.submission import Site, ask, site, submit
from primitives.keys import PrivateKey

_TO = click.option(
    "--to",
    required=True,
    type=PartyType(),
    metavar="INSTITUTION|PERSON",
    help="Who receives: an institution's id, or a person id.",
)
_PURPOSE = click.option(
    "--purpose",
    required=True,
    type=click.Choice(PURPOSES),
    help="What for: a code of HL7 v3 PurposeOfUse, such as HRESCH for research.",
)
_KEY = click.option(
    "--key",
    "key_file",
    type=PATH,
    help="Sign with this person's key file; without it the institution itself signs.",
)


@click.command()
@options
@wait_option
@_KEY
@_TO
@click.option(
    "--record",
    "records",
    multiple=True,
    type=IdType("record"),
    help="A record it covers; may be repeated. Without any: all records of the person.",
)
@_PURPOSE
@click.option(
    "--expires",
    type=ExpiryType(),
    default=None,
    help="Until when: 2027-12-31, 2027-12-31T18:00:00+08:00, 90d, 12h or 30m. Default: no end.",
)
def grant(
    key_file: Path | None,
    to: Party,
    records: tuple[bytes, ...],
    purpose: str,
    expires: int | None,
    wait: bool,
) -> None:
    """Allow someone to receive records for a purpose. A patient signs with --key."""
    if len(records) > GRANT_RECORDS_MAX:
        raise click.UsageError(
            f"One grant names at most {GRANT_RECORDS_MAX} records, not {len(records)}; make "
            "several, or leave --record out for all records of the person."
        )
    where = site()
    operation = Grant(to, tuple(dict.fromkeys(records)), purpose, expires or 0)
    sent = submit(where, _signer(where, key_file), [operation], wait=wait)
    made = grant_id(sent[0].signed.id, 0).hex()
    document = {"grant": made, "purpose": purpose, "expires_ms": expires or 0}
    until = shown_time(expires) if expires else "never"
    finish(sent, document, [("grant", made), ("purpose", purpose), ("expires", until)], wait=wait)


@click.command()
@options
@wait_option
@_KEY
@click.argument("grant", type=IdType("grant"))
def revoke(key_file: Path | None, grant: bytes, wait: bool) -> None:
    """End a grant: from then on no share may rest on it. Sign with the key that granted it."""
    where = site()
    sent = submit(where, _signer(where, key_file), [Revoke(grant)], wait=wait)
    finish(sent, {"grant": grant.hex(), "revoked": True}, [("revoked", grant.hex())], wait=wait)


@click.command()
@options
@wait_option
@click.argument("record", type=IdType("record"))
@_TO
@click.option("--grant", required=True, type=IdType("grant"), help="The grant it rests on.")
@_PURPOSE
def share(record: bytes, to: Party, grant: bytes, purpose: str, wait: bool) -> None:
    """Record that this institution hands a record over. Refused without a valid grant."""
    where = site()
    commitment = _commitment(where, record)
    operation = RecordShare(record, to, grant, commitment, purpose)
    sent = submit(where, where.node_key(), [operation], wait=wait)
    document = {"record": record.hex(), "grant": grant.hex(), "purpose": purpose}
    finish(sent, document, [("shared", record.hex()), ("grant", grant.hex())], wait=wait)


def _signer(where: Site, key_file: Path | None) -> PrivateKey:
    return where.node_key() if key_file is None else read_key(key_file)


def _commitment(where: Site, record: bytes) -> bytes:
    """The commitment under which the record is registered, which the share repeats."""
    found = ask(where.config, "record_get", id=record.hex())
    return bytes.fromhex(found["commitment"])
