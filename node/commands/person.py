"""`medpact person`: an institution attests who holds which key."""

from pathlib import Path

import click

from ledger.operations import PERSON_KINDS, EnrolPerson
from ledger.state import person_id
from node.arguments import PublicKeyType
from node.commands.outcome import finish, wait_option
from node.console import PATH, options
from node.keyfile import read_key
from node.submission import site, submit


@click.group()
def person() -> None:
    """Enrol persons."""


@person.command()
@options
@wait_option
@click.option(
    "--key",
    "key_file",
    type=PATH,
    help="The person's key file; only its public half is used.",
)
@click.option("--public", type=PublicKeyType(), help="The person's public key, in hex.")
@click.option(
    "--kind",
    required=True,
    type=click.Choice(PERSON_KINDS),
    help="As whom the person acts.",
)
def enrol(key_file: Path | None, public: bytes | None, kind: str, wait: bool) -> None:
    """Attest, as this institution, that a person holds a key. Who it is stays in your own files."""
    if key_file is not None and public is None:
        key = read_key(key_file).public
    elif public is not None and key_file is None:
        key = public
    else:
        raise click.UsageError("Give the person's key with either --key FILE or --public HEX.")
    where = site()
    sent = submit(where, where.node_key(), [EnrolPerson(key, kind)], wait=wait)
    person = person_id(key).hex()
    document = {"person": person, "kind": kind}
    finish(sent, document, [("person", person), ("kind", kind)], wait=wait)
