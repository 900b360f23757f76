"""The settings of one node: HOME/config.toml, read strictly, its paths and addresses resolved.

A setting that is misspelt and silently ignored is worse than none, so an unknown key is refused and
the nearest known one named. What must be equal on all nodes is not here but in the genesis file.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from node.home import Home, StartError, printable, read_file, reason
from node.rpc_access import TOKENS_MAX, NamedToken
from primitives.codec import INSTITUTION_ID_PATTERN
from primitives.institution import InstitutionError, parse_address

CONFIG_BYTES_MAX = 1024 * 1024
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")

BOOTSTRAP_PEERS_MAX = 64

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]


class ConfigError(StartError):
    """A setting that cannot be used: one sentence with the file, the key and what to do."""


class BootstrapPeer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member's node as it is now, for a node that does not know the present members yet."""

    id: str
    key: str
    address: str


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of this node's own connections, named as in node/transport.py's TransportLimits."""

    dial_timeout_ms: Annotated[int, msgspec.Meta(ge=100, le=60_000)] = 5_000
    """How long one attempt to reach a peer may take."""
    redial_ms_max: Annotated[int, msgspec.Meta(ge=100, le=600_000)] = 10_000
    """The longest pause between two attempts to reach a peer."""
    queue_bytes_max: Annotated[int, msgspec.Meta(ge=1024**2, le=1024**3)] = 16 * 1024**2
    """What may wait for one slow peer before messages to it are dropped."""
    bootstrap_peers: Annotated[
        tuple[BootstrapPeer, ...], msgspec.Meta(max_length=BOOTSTRAP_PEERS_MAX)
    ] = ()
    """Members to catch up from, besides those that this node's ledger lists."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings as the daemon uses them: absolute paths, checked addresses."""

    home: Home
    institution: str
    listen: str | None
    """Where to listen, "host:port"; None for the address in the genesis file."""
    genesis_file: Path
    key_file: Path
    rpc_socket: Path
    rpc_tcp: tuple[str, int] | None
    """Loopback host and port of the RPC over TCP, or None where it is off."""
    rpc_tokens: tuple[NamedToken, ...]
    """Who may use the RPC over TCP besides the holder of the token file."""
    log_level: LogLevel
    log_format: LogFormat
    network: NetworkConfig


class _Rpc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    socket: str = "rpc.sock"
    tcp: str | None = None
    tokens: Annotated[tuple[NamedToken, ...], msgspec.Meta(max_length=TOKENS_MAX)] = ()


class _Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: LogLevel = "info"
    format: LogFormat = "json"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    institution: str
    listen: str | None = None
    genesis: str = "genesis.toml"
    key_file: str = "node.key"
    rpc: _Rpc = _Rpc()
    log: _Log = _Log()
    network: NetworkConfig = NetworkConfig()


_TABLES: Mapping[str, type[msgspec.Struct]] = {"rpc": _Rpc, "log": _Log, "network": NetworkConfig}
_CHOICES: Mapping[str | None, tuple[str, ...]] = {
    "log.level": get_args(LogLevel),
    "log.format": get_args(LogFormat),
}
_PLAIN: Mapping[str, str] = {
    " | null`": "`",
    "`str`": "text",
    "`int`": "a whole number",
    "`float`": "a fraction",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "a table",
    ">=": "of at least",
    "of length <=": "of at most",
    "<=": "of at most",
    "`": "'",
}
_KEY = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MSGSPEC_PATH = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<key>.*)`)?", re.DOTALL)
"""How msgspec ends a complaint with the place of it."""


def load_config(home: Path) -> Config:
    """The settings in `home`/config.toml; raises ConfigError, or HomeError without such a home."""
    where = Home(home.absolute())
    where.check()
    name = printable(where.config_file)
    document = _parse(_read(where.config_file, name), name)
    _refuse_unknown(document, _File, "", name)
    for table, kind in _TABLES.items():
        if isinstance(document.get(table), dict):
            _refuse_unknown(document[table], kind, f"{table}.", name)
    try:
        settings = msgspec.convert(document, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {_sentence(str(error))}") from error
    return _resolve(settings, where, name)


def _read(path: Path, name: str) -> bytes:
    try:
        raw = read_file(path, CONFIG_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{name} does not exist; is {printable(path.parent)} the home of a node? Make a trial "
            "network with `medpact testnet create`, or start from configs/ in the repository."
        ) from error
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {reason(error)}.") from error
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{name} is larger than {CONFIG_BYTES_MAX} bytes; it is no config file.")
    return raw


def _parse(raw: bytes, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name}: line {line} is not UTF-8 text; save the file as UTF-8."
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid TOML: {error}.") from error


def _refuse_unknown(
    table: Mapping[str, Any], kind: type[msgspec.Struct], prefix: str, name: str
) -> None:
    known = kind.__struct_fields__
    for key in table:
        if key in known:
            continue
        shown = ascii(prefix + key[:40])
        near = difflib.get_close_matches(key, known, n=1)
        if near:
            advice = f"did you mean '{prefix}{near[0]}'?"
        else:
            advice = f"known keys here are {', '.join(known)}."
        raise ConfigError(f"{name}: unknown key {shown}; {advice}")


def _sentence(problem: str) -> str:
    """Say what msgspec found in the words of the file."""
    match = _MSGSPEC_PATH.fullmatch(problem)
    what, key = (match["what"], match["key"]) if match else (problem, None)
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if missing:
        return f"the key '{missing[1]}' is missing; add it."
    if key in _CHOICES:
        return f"the key '{key}' must be one of {', '.join(_CHOICES[key])}."
    for found, plain in _PLAIN.items():
        what = what.replace(found, plain)
    subject = f"the key '{key}'" if key else "the file"
    return f"{subject} has a wrong value: {what[:1].lower()}{what[1:]}; correct it."


def _resolve(settings: _File, home: Home, name: str) -> Config:
    if not re.search(INSTITUTION_ID_PATTERN, settings.institution):
        raise ConfigError(
            f"{name}: the key 'institution' holds {settings.institution[:40]!a}, which is no "
            "institution id; give the id that the genesis file lists, for example 'recorder-1'."
        )
    if settings.listen is not None:
        _address(settings.listen, "listen", name)
    for peer in settings.network.bootstrap_peers:
        _check_bootstrap(peer, name)
    return Config(
        home=home,
        institution=settings.institution,
        listen=settings.listen,
        genesis_file=_path(settings.genesis, home, "genesis", name),
        key_file=_path(settings.key_file, home, "key_file", name),
        rpc_socket=_path(settings.rpc.socket, home, "rpc.socket", name),
        rpc_tcp=None if settings.rpc.tcp is None else _loopback(settings.rpc.tcp, name),
        rpc_tokens=settings.rpc.tokens,
        log_level=settings.log.level,
        log_format=settings.log.format,
        network=settings.network,
    )


def _check_bootstrap(peer: BootstrapPeer, name: str) -> None:
    _address(peer.address, "network.bootstrap_peers.address", name)
    if not re.search(INSTITUTION_ID_PATTERN, peer.id) or not re.fullmatch(_KEY, peer.key):
        raise ConfigError(
            f"{name}: an entry of 'network.bootstrap_peers' needs the id of a member and its "
            "public key, 64 hexadecimal digits; `medpact member list` at a member shows both."
        )


def _path(text: str, home: Home, key: str, name: str) -> Path:
    if not text or "\0" in text:
        raise ConfigError(
            f"{name}: the key '{key}' holds no file name; give one or remove the key."
        )
    return home.path / text


def _address(text: str, key: str, name: str) -> tuple[str, int]:
    try:
        return parse_address(text)
    except InstitutionError as error:
        raise ConfigError(f"{name}: the key '{key}' cannot be used. {error}") from error


def _loopback(text: str, name: str) -> tuple[str, int]:
    host, port = _address(text, "rpc.tcp", name)
    if host not in LOOPBACK_HOSTS:
        raise ConfigError(
            f"{name}: the key 'rpc.tcp' holds {text!a}, an address that others can reach; "
            "use 127.0.0.1:PORT and put a reverse proxy in front for remote apps."
        )
    return host, port
