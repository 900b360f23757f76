"""`medpact keys`: make a private key, and show the public half of one."""

import secrets
from pathlib import Path

import click

from node.console import emit_fields, json_option
from node.home import printable
from node.keyfile import read_key, write_key
from primitives.keys import SEED_BYTES, PrivateKey


@click.group()
def keys() -> None:
    """Generate and show keys."""


@keys.command()
@json_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The new key file. An existing file is never overwritten.",
)
def generate(output: Path) -> None:
    """Write a new private key to a file that only you may read."""
    key = PrivateKey(secrets.token_bytes(SEED_BYTES))
    write_key(output, key)
    _show(output, key)


@keys.command()
@json_option
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Show the public key of a key file."""
    _show(file, read_key(file))


def _show(file: Path, key: PrivateKey) -> None:
    document = {"file": printable(file), "public_key": key.public.hex()}
    emit_fields(document, [("key file", printable(file)), ("public key", key.public.hex())])
