"""Institutions: who they are, of which type, and in which consensus class that puts them.

The limits here are rules of the ledger (an institution joins by a transaction), so they use nothing
that differs between versions of Python: no Unicode tables, no locale.
"""

import enum
import ipaddress
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final

import msgspec

from primitives.codec import (
    INSTITUTION_ID_PATTERN,
    SHORT_TEXT_CHARS_MAX,
    Canonical,
    InstitutionId,
    PublicKey,
    ShortText,
)
from primitives.keys import is_public_key

INSTITUTION_TYPES: Final[tuple[str, ...]] = (
    "tertiary_hospital",
    "health_information_exchange",
    "health_authority",
    "regulator",
    "notary_office",
    "secondary_hospital",
    "clinic",
    "laboratory",
    "pharmacy",
    "insurer",
    "research_institute",
)


class ConsensusClass(enum.StrEnum):
    """What an institution does in consensus (docs/ARCHITECTURE.md section 3)."""

    RECORDER = "recorder"
    """Keeps the books in turn: proposes blocks, and votes."""
    AUDITOR = "auditor"
    """Votes on every block, never proposes."""
    OBSERVER = "observer"
    """Holds a full copy and submits; no vote."""


DEFAULT_CLASSES: Final[Mapping[str, ConsensusClass]] = MappingProxyType(
    {
        "tertiary_hospital": ConsensusClass.RECORDER,
        "health_information_exchange": ConsensusClass.RECORDER,
        "health_authority": ConsensusClass.AUDITOR,
        "regulator": ConsensusClass.AUDITOR,
        "notary_office": ConsensusClass.AUDITOR,
        "secondary_hospital": ConsensusClass.OBSERVER,
        "clinic": ConsensusClass.OBSERVER,
        "laboratory": ConsensusClass.OBSERVER,
        "pharmacy": ConsensusClass.OBSERVER,
        "insurer": ConsensusClass.OBSERVER,
        "research_institute": ConsensusClass.OBSERVER,
    }
)
"""Which class each type belongs to unless the genesis file says otherwise."""

LEI_CHARS: Final = 20
ADDRESS_CHARS_MAX: Final = 260
"""A host name of 253 characters, a colon, a port, and the brackets of an IPv6 address."""
HOST_CHARS_MAX: Final = 253
PORT_MAX: Final = 65535

_REGION: Final = r"^[A-Z]{2}(-[A-Z0-9]{1,3})?\Z"
_LEI: Final = r"^[0-9A-Z]{18}[0-9]{2}\Z"
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class InstitutionError(ValueError):
    """A field of an institution is not acceptable; the message says which and why."""


Address = Annotated[str, msgspec.Meta(min_length=1, max_length=ADDRESS_CHARS_MAX)]
"""Where a node listens, "host:port" or "[IPv6 address]:port"."""


class Institution(Canonical, frozen=True):
    """One member of a ledger, as its genesis file or a join transaction names it."""

    id: InstitutionId
    name: ShortText
    """The full name people know, 1 to 256 characters."""
    type: ShortText
    """One of INSTITUTION_TYPES."""
    region: Annotated[str, msgspec.Meta(pattern=_REGION)]
    """The jurisdiction: ISO 3166-1 alpha-2 ("CN") or an ISO 3166-2 subdivision ("CN-GD")."""
    lei: Annotated[str, msgspec.Meta(pattern=_LEI)]
    """The Legal Entity Identifier, ISO 17442."""
    key: PublicKey
    """The Ed25519 key of the institution's node."""
    address: Address


def check_institution(i: Institution) -> None:
    """Raise InstitutionError with the exact reason unless every field of `i` is acceptable."""
    if not re.search(INSTITUTION_ID_PATTERN, i.id):
        raise InstitutionError(
            f"The id {_quote(i.id)} is not 1 to 32 of the characters a-z, 0-9 and hyphen, "
            "the first not a hyphen."
        )
    if not 1 <= len(i.name) <= SHORT_TEXT_CHARS_MAX:
        raise InstitutionError(
            f"{i.id}: the name has {len(i.name)} characters; "
            f"it must have 1 to {SHORT_TEXT_CHARS_MAX}."
        )
    if _CONTROL.search(i.name):
        raise InstitutionError(f"{i.id}: the name contains a control character or a line break.")
    if i.type not in INSTITUTION_TYPES:
        raise InstitutionError(
            f"{i.id}: the type {_quote(i.type)} is unknown; use one of "
            f"{', '.join(INSTITUTION_TYPES)}."
        )
    if not re.search(_REGION, i.region):
        raise InstitutionError(
            f"{i.id}: the region {_quote(i.region)} is not an ISO 3166 code such as CN or CN-GD."
        )
    if not is_public_key(i.key):
        raise InstitutionError(f"{i.id}: the key is not an Ed25519 public key of 32 bytes.")
    try:
        check_lei(i.lei)
        parse_address(i.address)
    except InstitutionError as error:
        raise InstitutionError(f"{i.id}: {error}") from None


def check_lei(lei: str) -> None:
    """Raise InstitutionError with the exact reason unless `lei` is a valid LEI.

    ISO 17442-1: 18 digits or upper-case letters and two check digits, such that the whole, letters
    read as 10 to 35, leaves 1 when divided by 97 (ISO 7064, MOD 97-10).
    """
    if len(lei) != LEI_CHARS:
        raise InstitutionError(
            f"The LEI {_quote(lei)} has {len(lei)} characters; an LEI has {LEI_CHARS}."
        )
    _check_lei_characters(lei)
    if not lei[-2:].isdecimal():
        raise InstitutionError(f"The LEI {lei} does not end in two check digits.")
    if _mod_97(lei) != 1:
        raise InstitutionError(
            f"The LEI {lei} fails its check digits (ISO 17442): a character is mistyped. "
            "Copy it again from its certificate or from search.gleif.org."
        )


def lei_with_check_digits(first18: str) -> str:
    """Return the LEI of `first18`, its two check digits (02 to 98) appended.

    Raises InstitutionError unless it is 18 digits or upper-case letters.
    """
    if len(first18) != LEI_CHARS - 2:
        raise InstitutionError(
            f"{_quote(first18)} has {len(first18)} characters; "
            f"an LEI has {LEI_CHARS - 2} before its check digits."
        )
    _check_lei_characters(first18)
    return f"{first18}{98 - _mod_97(first18 + '00'):02d}"


def parse_address(address: str) -> tuple[str, int]:
    """Return (host, port) of "host:port" or "[IPv6 address]:port", the host without brackets.

    The host is a name (RFC 1123), an IPv4 or an IPv6 address. Raises InstitutionError otherwise.
    """
    if len(address) > ADDRESS_CHARS_MAX:
        raise InstitutionError(f"The address is longer than {ADDRESS_CHARS_MAX} characters.")
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise InstitutionError(
            f"The address {_quote(address)} is not of the form host:port, for example "
            "node.hospital.example:7600 or [2001:db8::1]:7600."
        )
    if not _NUMBER.fullmatch(port) or not 1 <= int(port) <= PORT_MAX:
        raise InstitutionError(
            f"The address {_quote(address)} has no port number from 1 to {PORT_MAX} after its "
            "last colon."
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        _check_ipv6(host, address)
    else:
        _check_host(host, address)
    return host, int(port)


def _quote(text: str) -> str:
    # What was typed may be long or hold control characters; it goes to a terminal.
    return ascii(text[:40])


def _check_lei_characters(text: str) -> None:
    for position, character in enumerate(text, start=1):
        if not ("0" <= character <= "9" or "A" <= character <= "Z"):
            raise InstitutionError(
                f"The LEI {_quote(text)} has {_quote(character)} as character {position}; "
                "only digits and upper-case letters are allowed."
            )


def _mod_97(text: str) -> int:
    return int("".join(str(int(character, 36)) for character in text)) % 97


def _check_ipv6(host: str, address: str) -> None:
    if "%" in host:
        raise InstitutionError(
            f"The address {_quote(address)} names a zone after %, which means something on one "
            "machine only; leave it out."
        )
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise InstitutionError(
            f"The address {_quote(address)} has no IPv6 address in its brackets."
        ) from None


def _check_host(host: str, address: str) -> None:
    if ":" in host:
        raise InstitutionError(
            f"The address {_quote(address)} has several colons; write an IPv6 address in brackets, "
            "[2001:db8::1]:7600."
        )
    labels = host.split(".")
    if len(host) > HOST_CHARS_MAX or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise InstitutionError(f"The address {_quote(address)} does not start with a host name.")
    # A last label of digits can only be the end of an IPv4 address.
    if labels[-1].isdecimal() and not (len(labels) == 4 and all(map(_is_octet, labels))):
        raise InstitutionError(
            f"The address {_quote(address)} has neither a host name nor an IPv4 address before "
            "the port."
        )


def _is_octet(label: str) -> bool:
    return _NUMBER.fullmatch(label) is not None and int(label) <= 255
