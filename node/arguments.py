"""What users type on the command line, as values: ids, parties, points in time, labels."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import click
import msgspec

from ledger.operations import InstitutionParty, Label, Party, PersonParty
from primitives.codec import INSTITUTION_ID_PATTERN
from primitives.hashing import DIGEST_BYTES
from primitives.keys import is_public_key

_DURATION = re.compile(r"([0-9]{1,6})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_SHOWN_CHARS_MAX = 80
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_MAX = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


def parse_id(text: str) -> bytes | None:
    """The 32 bytes that 64 hexadecimal digits stand for, or None."""
    if re.fullmatch(r"[0-9a-fA-F]{64}", text, re.ASCII) is None:
        return None
    return bytes.fromhex(text)


class IdType(click.ParamType[bytes]):
    """The id of a record, person, grant, transaction or block: 64 hexadecimal digits."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        """The 32 bytes of the id."""
        found = value if isinstance(value, bytes) else parse_id(value)
        if found is None:
            digits = 2 * DIGEST_BYTES
            self.fail(
                f"{value[:_SHOWN_CHARS_MAX]!a} is no {self.name} id: it must be {digits} "
                "hexadecimal digits.",
                param,
                ctx,
            )
        return found


class PublicKeyType(click.ParamType[bytes]):
    """An Ed25519 public key: 64 hexadecimal digits."""

    name = "public key"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        """The 32 bytes of the key."""
        found = value if isinstance(value, bytes) else parse_id(value)
        if found is None or not is_public_key(found):
            self.fail(
                f"{value[:_SHOWN_CHARS_MAX]!a} is no public key: copy the 64 hexadecimal digits "
                "that `medpact keys show FILE` prints.",
                param,
                ctx,
            )
        return found


class PartyType(click.ParamType[Party]):
    """An institution, by its short id, or a person, by the person id in 64 hexadecimal digits."""

    name = "institution|person"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Party:
        """The party."""
        if isinstance(value, InstitutionParty | PersonParty):
            return value
        person = parse_id(value)
        if person is not None:
            return PersonParty(person)
        if re.search(INSTITUTION_ID_PATTERN, value) is None:
            self.fail(
                f"{value[:_SHOWN_CHARS_MAX]!a} is neither an institution id such as 'recorder-1' "
                "nor a person id of 64 hexadecimal digits.",
                param,
                ctx,
            )
        return InstitutionParty(value)


class LabelType(click.ParamType[str]):
    """A code that describes a record and that every member can read."""

    name = "code"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The code as it was typed."""
        try:
            return msgspec.convert(value, Label)
        except msgspec.ValidationError:
            self.fail(
                f"{value[:_SHOWN_CHARS_MAX]!a} is no label: use 1 to 64 of A-Z a-z 0-9 space and "
                "._:/+- that start with a letter or digit; never a name or number of a person.",
                param,
                ctx,
            )


class ExpiryType(click.ParamType[int]):
    """A point in time: a date (its end, UTC), a time with its zone, or a duration from now."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since the Unix epoch."""
        if isinstance(value, int):
            return value
        try:
            moment = _moment(value, datetime.now(UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value[:_SHOWN_CHARS_MAX]!a} is no point in time: write a date (2027-12-31), a "
                "time with its zone (2027-12-31T18:00:00+08:00) or a duration (90d, 12h, 30m).",
                param,
                ctx,
            )
        milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
        if milliseconds <= 0:
            self.fail(f"{value[:_SHOWN_CHARS_MAX]!a} is long past.", param, ctx)
        return milliseconds


def _moment(text: str, now: datetime) -> datetime:
    """The point in time that a text names; raises ValueError or OverflowError."""
    duration = _DURATION.fullmatch(text)
    if duration is not None:
        return now + timedelta(**{_UNITS[duration[2]]: int(duration[1])})
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text, re.ASCII):
        return datetime.combine(date.fromisoformat(text), time.max, UTC)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time of day without a zone means different moments to two readers")
    return moment


def shown_time(milliseconds: int) -> str:
    """A point in time for people, UTC; what lies beyond the year 9999 as the number it is."""
    if milliseconds > _MILLISECONDS_MAX:
        return f"{milliseconds} ms after 1970"
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")
