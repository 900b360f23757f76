"""Who may call what: roles, the token of this start, named tokens, and the headers that keep web
pages out.

Whoever can open the unix socket owns the node's home and may do everything. Over loopback TCP any
local process or any web page in a local browser can try, so a token is needed, the Host must be a
loopback name (else DNS rebinding makes a foreign page "same origin"), and a request with an Origin,
which only browsers send, is refused.
"""

import enum
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from node.home import StartError, printable, reason
from node.jsonrpc import ErrorCode

TOKEN_BYTES: Final = 32
TOKEN_CHARS_MAX: Final = 256
TOKENS_MAX: Final = 64
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-fA-F:]+\]|[^:\[\]]+)(:[0-9]{1,5})?")


class Role(enum.StrEnum):
    """What a token allows. Every token may read; `admin` may do everything."""

    READ = "read"
    """Node, blocks, transactions, records, persons, grants, institutions."""
    SUBMIT = "submit"
    """Submit signed transactions."""
    AUDIT = "audit"
    """Whole histories, proofs and the stream of events."""
    ADMIN = "admin"
    """Everything."""


class NamedToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A long-lived token as the settings keep it: never the token, only its SHA-256."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1, max_length=4)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """SHA-256 of the token's text, in hex."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a name for rate limits and logs, never a token."""

    name: str
    roles: tuple[Role, ...]

    def may(self, role: Role) -> bool:
        """Whether this caller may use methods of a role."""
        return role is Role.READ or role in self.roles or Role.ADMIN in self.roles


SOCKET_CALLER: Final = Caller("socket", (Role.ADMIN,))
"""Whoever the file system lets open the unix socket."""


class Refusal(Exception):
    """A request that is turned away before it is read: an HTTP status, an error code and a
    sentence.
    """

    def __init__(self, status: int, code: ErrorCode, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.sentence = sentence


def new_token() -> tuple[str, str]:
    """A random token of 256 bits as hex, and the SHA-256 that the settings keep of it."""
    token = secrets.token_hex(TOKEN_BYTES)
    return token, _hash(token)


class TokenFile:
    """The token of this start, in a file that only the owner reads; gone when the node stops."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = ""
        self._identity: tuple[int, int] | None = None

    def create(self) -> None:
        """Write a new random token, replacing one that a killed process left; raises StartError."""
        token, self.sha256 = new_token()
        beside = self.path.with_name(self.path.name + ".new")
        try:
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as f:
                f.write(token + "\n")
                status = os.fstat(f.fileno())
            beside.replace(self.path)
        except OSError as error:
            raise StartError(
                f"The RPC's token file {printable(self.path)} cannot be written: {reason(error)}."
            ) from error
        self._identity = (status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Delete the file if it is still the one written here."""
        try:
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()
        except FileNotFoundError:
            return


class Tokens:
    """The tokens that are good now."""

    def __init__(self, start_sha256: str, named: Sequence[NamedToken]) -> None:
        self._known = [(start_sha256, Caller("token-file", (Role.ADMIN,)))]
        self._known += [(t.sha256, Caller(f"token-{t.name}", t.roles)) for t in named]

    def caller(self, authorization: str | None) -> Caller:
        """Whose token an Authorization header holds; raises Refusal. Takes equally long for every
        wrong token.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        found = None
        if scheme.lower() == "bearer" and len(token) <= TOKEN_CHARS_MAX:
            presented = _hash(token.strip())
            for sha256, caller in self._known:
                if hmac.compare_digest(sha256, presented):
                    found = caller
        if found is None:
            raise Refusal(
                401,
                ErrorCode.UNAUTHENTICATED,
                "The token is missing or wrong; send the header 'Authorization: Bearer TOKEN' with "
                "the text of the file rpc.token in the node's home, or a token from its settings.",
            )
        return found


def check_source(host: str | None, origin: str | None) -> None:
    """Raise Refusal unless a request names this machine as its Host and comes from no web page."""
    match = _HOST.fullmatch(host or "")
    if match is None or match["name"].lower() not in LOOPBACK_NAMES:
        raise Refusal(
            403,
            ErrorCode.FORBIDDEN,
            "The Host header does not name this machine; call http://localhost or http://127.0.0.1.",
        )
    if origin is not None:
        raise Refusal(
            403,
            ErrorCode.FORBIDDEN,
            "Requests from web pages (with an Origin header) are refused; "
            "call the RPC from the app's server side.",
        )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
