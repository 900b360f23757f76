"""A trial consortium on this machine: keys, genesis, one home and one process per node.

A network is a directory with one home per node and nothing else that would have to be kept in step:
which nodes there are follows from the homes, and which of them run from the locks in these.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.committee import QuorumRule
from ledger.genesis import parse_genesis, render_genesis
from node.home import Home, HomeError, StartError, printable, reason
from node.keyfile import write_key
from primitives.institution import PORT_MAX, Institution, lei_with_check_digits
from primitives.keys import SEED_BYTES, PrivateKey

_REGIONS = ("CN-GD", "HK", "MO")

_CONFIG = """\
# One node of a trial network, made by `medpact testnet create`. docs/cli.md lists every key.
institution = "{institution}"

[rpc]
# Apps of this institution talk to the node here; only this user may.
socket = "rpc.sock"
# tcp = "127.0.0.1:8545"

[log]
level = "info"
format = "json"
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a trial network is."""

    recorders: int
    auditors: int
    observers: int
    base_port: int
    quorum: QuorumRule


@dataclass(frozen=True, slots=True)
class Created:
    """A trial network as it was made: its homes and what its genesis file warns of."""

    chain_id: bytes
    homes: tuple[Home, ...]
    warnings: tuple[str, ...]


def create(directory: Path, plan: Plan) -> Created:
    """Make keys, genesis file and homes in a new or empty directory; raises StartError."""
    members = _members(plan)
    _check_room(directory, plan, members)
    keys = {member.id: PrivateKey(secrets.token_bytes(SEED_BYTES)) for member in members}
    institutions = tuple(_institution(m, keys[m.id]) for m in members)
    now_ms = time.time_ns() // 1_000_000
    text = render_genesis("Trial network", now_ms, institutions, quorum=plan.quorum)
    genesis = parse_genesis(text)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / "genesis.toml", text)
        homes = tuple(_make_home(directory / m.id, keys[m.id], text) for m in members)
    except OSError as error:
        raise StartError(
            f"The trial network cannot be written to {printable(directory)}: {reason(error)}."
        ) from error
    return Created(genesis.chain_id, homes, tuple(genesis.warnings))


@dataclass(frozen=True, slots=True)
class _Member:
    id: str
    name: str
    type: str
    number: int
    port: int


def _members(plan: Plan) -> tuple[_Member, ...]:
    kinds = (
        ("recorder", "Trial Hospital", "tertiary_hospital", plan.recorders),
        ("auditor", "Trial Health Authority", "health_authority", plan.auditors),
        ("observer", "Trial Research Institute", "research_institute", plan.observers),
    )
    members: list[_Member] = []
    for prefix, name, kind, count in kinds:
        for index in range(1, count + 1):
            number = len(members)
            port = plan.base_port + number
            members.append(_Member(f"{prefix}-{index}", f"{name} {index}", kind, number, port))
    return tuple(members)


def _check_room(directory: Path, plan: Plan, members: Sequence[_Member]) -> None:
    last = plan.base_port + len(members) - 1
    if last > PORT_MAX:
        raise StartError(
            f"{len(members)} nodes from port {plan.base_port} on would need the port {last}, and "
            f"{PORT_MAX} is the last there is; choose a lower --base-port."
        )
    for member in members:
        Home(directory / member.id).check_length()
    try:
        if any(directory.iterdir()):
            raise StartError(
                f"{printable(directory)} is not empty and is left as it is; choose a new directory."
            )
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StartError(f"{printable(directory)} cannot be used: {reason(error)}.") from error


def _institution(member: _Member, key: PrivateKey) -> Institution:
    return Institution(
        id=member.id,
        name=member.name,
        type=member.type,
        region=_REGIONS[member.number % len(_REGIONS)],
        lei=lei_with_check_digits(f"MEDPACTTRIAL{member.number:06d}"),
        key=key.public,
        address=f"127.0.0.1:{member.port}",
    )


def _make_home(path: Path, key: PrivateKey, genesis: bytes) -> Home:
    home = Home(path)
    home.create()
    write_key(home.key_file, key)
    _write(home.genesis_file, genesis)
    _write(home.config_file, _CONFIG.format(institution=path.name).encode())
    return home


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as f:
        f.write(content)


def homes(directory: Path) -> tuple[Home, ...]:
    """The nodes of a trial network, by id; raises HomeError if there are none."""
    try:
        found = [Home(path) for path in directory.iterdir()]
        nodes = [home for home in found if home.config_file.exists()]
    except OSError as error:
        raise HomeError(f"{printable(directory)} cannot be read: {reason(error)}.") from error
    if not nodes:
        raise HomeError(
            f"{printable(directory)} is not a trial network; make one with "
            "`medpact testnet create DIR`."
        )
    return tuple(sorted(nodes, key=_in_order))


def _in_order(home: Home) -> tuple[str, int]:
    """Sorts recorder-2 before recorder-10."""
    stem, _, number = home.path.name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (home.path.name, 0)


def home_of(directory: Path, node: str) -> Home:
    """One node of a trial network; raises HomeError naming the others."""
    nodes = {home.path.name: home for home in homes(directory)}
    if node not in nodes:
        raise HomeError(f"{printable(directory)} has no node {node!a}; it has {', '.join(nodes)}.")
    return nodes[node]
