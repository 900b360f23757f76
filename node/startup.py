"""What must hold before a node may start or sign: a readable genesis file, and the key it lists."""

from ledger.genesis import GENESIS_BYTES_MAX, Genesis, GenesisError, parse_genesis
from node.config import Config
from node.home import StartError, printable, read_file, reason
from primitives.institution import Institution
from primitives.keys import PrivateKey


def read_genesis(config: Config) -> Genesis:
    """The genesis file that the settings name; raises StartError."""
    name = printable(config.genesis_file)
    try:
        raw = read_file(config.genesis_file, GENESIS_BYTES_MAX + 1)
    except OSError as error:
        raise StartError(
            f"The genesis file {name} cannot be read: {reason(error)}; copy the consortium's "
            "genesis file there, byte for byte."
        ) from error
    if not raw:
        raise StartError(
            f"The genesis file {name} is empty; copy the consortium's genesis file there, byte for "
            "byte."
        )
    try:
        return parse_genesis(raw)
    except GenesisError as error:
        sentence = str(error)
        raise StartError(
            f"The genesis file {name} cannot be used. {sentence[:1].upper()}{sentence[1:]}"
        ) from error


def member_of(config: Config, genesis: Genesis) -> Institution:
    """The institution of the settings, as genesis lists it; raises StartError."""
    members = {institution.id: institution for institution in genesis.institutions}
    if config.institution not in members:
        raise StartError(
            f"{printable(config.home.config_file)}: the key 'institution' says "
            f"{config.institution}, which the genesis file {printable(config.genesis_file)} does "
            f"not list; it lists {', '.join(sorted(members))}."
        )
    return members[config.institution]


def check_membership(config: Config, genesis: Genesis, key: PrivateKey) -> None:
    """Raise StartError unless genesis lists this institution with this key."""
    member = member_of(config, genesis)
    if member.key != key.public:
        owner = next((i.id for i in genesis.institutions if i.key == key.public), None)
        whose = f"that of {owner}" if owner else "no member's"
        raise StartError(
            f"The key file {printable(config.key_file)} is {whose}: its public key is "
            f"{key.public.hex()}, but the genesis file lists {member.key.hex()} for "
            f"{config.institution}; put the right key file there or correct 'institution' in "
            f"{printable(config.home.config_file)}."
        )
