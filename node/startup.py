"""What must hold before a node may start: a readable genesis file, and a key that can be its."""

from ledger.genesis import GENESIS_BYTES_MAX, Genesis, GenesisError, parse_genesis
from ledger.standing import owner_of
from ledger.state import members
from ledger.store import StateReader
from node.config import Config
from node.home import StartError, printable, read_file, reason
from node.keyfile import next_key_file, read_key, replace_key
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


def check_identity(config: Config, genesis: Genesis, key: PrivateKey) -> None:
    """Raise StartError where this can be no member's node, nor that of one that is to join.

    Genesis knows the founders only: who has joined or has another key since stands in the ledger,
    which the node may yet have to fetch.
    """
    founders = {institution.id: institution for institution in genesis.institutions}
    if config.institution not in founders and config.listen is None:
        raise StartError(
            f"{printable(config.home.config_file)}: the key 'institution' says "
            f"{config.institution}, which the genesis file {printable(config.genesis_file)} does "
            f"not list; it lists {', '.join(sorted(founders))}. If this institution joined later, "
            "or is to join, add the key 'listen' with the address of its node."
        )
    for founder in founders.values():
        if founder.key == key.public and founder.id != config.institution:
            raise StartError(
                f"The key file {printable(config.key_file)} is that of {founder.id}: its public "
                f"key is {key.public.hex()}; put the right key file there or correct 'institution' "
                f"in {printable(config.home.config_file)}."
            )


def settled_key(config: Config, state: StateReader, key: PrivateKey) -> PrivateKey:
    """Return the key of this node: that which the ledger lists, if it is here.

    A key that was prepared beside the key file (NEXT_SUFFIX) takes its place for good once the
    ledger lists it; the old one is gone then, since nobody may sign with it any more. Raises
    StartError for a key that was replaced.
    """
    listed = next((each for each in members(state) if each.id == config.institution), None)
    if listed is None or listed.key == key.public:
        return key
    following = next_key_file(config.key_file)
    if following.exists():
        next_key = read_key(following)
        if next_key.public == listed.key:
            replace_key(following, config.key_file)
            return next_key
    owner = owner_of(state, key.public)
    if owner is not None and owner.listed:
        raise StartError(
            f"The key in {printable(config.key_file)} was replaced by a vote: the ledger lists "
            f"{listed.key.hex()} for {config.institution}. Put the new key file there."
        )
    # A new key that this node, being behind, has not seen listed yet: it follows until it does.
    return key
