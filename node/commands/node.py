"""`medpact start` and `medpact status`: run this institution's node, and ask it how it is."""

import os

import click

from ledger.genesis import Genesis, GenesisError, parse_genesis
from node.config import Config, load_config
from node.console import home_path, leave, options, warn
from node.home import StartError, printable, reason
from node.keyfile import read_key
from primitives.keys import PrivateKey


@click.command()
@options
@click.option(
    "--override-restored-backup",
    is_flag=True,
    help="Vote although this home is a restored backup. It risks a contradictory vote.",
)
def start(override_restored_backup: bool) -> None:
    """Run this institution's node until SIGTERM or Ctrl-C. Logs go to standard output."""
    # Everything that the daemon creates is its owner's alone.
    os.umask(0o077)
    config = load_config(home_path())
    genesis = read_genesis(config)
    key = read_key(config.key_file)
    check_membership(config, genesis, key)
    for warning in genesis.warnings:
        warn(warning)
    if override_restored_backup:
        warn(
            "the node will vote although it may have forgotten votes that it cast after the backup "
            "was made. If it contradicts one of them, its key is proved to have voted twice and "
            "the institution can be suspended. Do this only if the old disk is lost, no other "
            "machine runs with this key, and the consortium has no quorum without this node."
        )
    with config.home.locked():
        from node.daemon import run

        leave(run(config, genesis, key, override_restored_backup))


def read_genesis(config: Config) -> Genesis:
    """The genesis file that the settings name; raises StartError."""
    name = printable(config.genesis_file)
    try:
        return parse_genesis(config.genesis_file.read_bytes())
    except OSError as error:
        raise StartError(
            f"The genesis file {name} cannot be read: {reason(error)}; copy the consortium's "
            "genesis file there, byte for byte."
        ) from error
    except GenesisError as error:
        raise StartError(f"The genesis file {name} cannot be used. {error}") from error


def check_membership(config: Config, genesis: Genesis, key: PrivateKey) -> None:
    """Raise StartError unless genesis lists this institution with this key."""
    members = {institution.id: institution for institution in genesis.institutions}
    member = members.get(config.institution)
    if member is None:
        raise StartError(
            f"{printable(config.home.config_file)}: the key 'institution' says "
            f"{config.institution}, which the genesis file {printable(config.genesis_file)} does "
            f"not list; it lists {', '.join(sorted(members))}."
        )
    if member.key != key.public:
        owner = next((i.id for i in genesis.institutions if i.key == key.public), None)
        whose = f"that of {owner}" if owner else "no member's"
        raise StartError(
            f"The key file {printable(config.key_file)} is {whose}: its public key is "
            f"{key.public.hex()}, but the genesis file lists {member.key.hex()} for "
            f"{config.institution}; put the right key file there or correct 'institution' in "
            f"{printable(config.home.config_file)}."
        )
