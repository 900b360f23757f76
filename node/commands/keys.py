"""`medpact keys`: private keys, their public halves, and tokens for apps."""

import secrets
from pathlib import Path

import click
import msgspec

from node.console import PATH, emit, emit_fields, json_option, note
from node.home import printable
from node.keyfile import read_key, write_key
from node.rpc_access import NamedToken, Role, new_token
from primitives.keys import SEED_BYTES, PrivateKey


@click.group()
def keys() -> None:
    """Make and show keys; make tokens for apps."""


@keys.command()
@json_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH,
    help="The new key file. An existing file is never overwritten.",
)
def generate(output: Path) -> None:
    """Write a new private key to a file that only you may read."""
    key = PrivateKey(secrets.token_bytes(SEED_BYTES))
    write_key(output, key)
    _show(output, key)


@keys.command()
@json_option
@click.argument("file", type=PATH)
def show(file: Path) -> None:
    """Show the public key of a key file."""
    _show(file, read_key(file))


@keys.command()
@json_option
@click.argument("name")
@click.option(
    "--role",
    "roles",
    required=True,
    multiple=True,
    type=click.Choice([role.value for role in Role]),
    help="What the token allows; may be repeated.",
)
def token(name: str, roles: tuple[str, ...]) -> None:
    """Make a token for an app that uses the RPC over TCP: the settings keep only its hash."""
    text, sha256 = new_token()
    try:
        named = msgspec.convert({"name": name, "roles": roles, "sha256": sha256}, NamedToken)
    except msgspec.ValidationError as error:
        raise click.UsageError(
            "NAME must be 1 to 32 of a-z, 0-9 and hyphen, the first not a hyphen, and each role "
            "can be given once."
        ) from error
    document = {"token": text, **msgspec.to_builtins(named)}

    def lines() -> None:
        note("Add this to config.toml and start the node again:")
        listed = ", ".join(f'"{role}"' for role in named.roles)
        click.echo(f'[[rpc.tokens]]\nname = "{name}"\nroles = [{listed}]\nsha256 = "{sha256}"')
        note("Give the app this token; it is not shown again:")
        click.echo(f"# {text}")

    emit(document, lines)


def _show(file: Path, key: PrivateKey) -> None:
    document = {"file": printable(file), "public_key": key.public.hex()}
    emit_fields(document, [("key file", printable(file)), ("public key", key.public.hex())])
