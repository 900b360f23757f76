"""What users type: ids, parties, labels and points in time, each mistake with its remedy."""

from datetime import UTC, datetime

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.operations import InstitutionParty, PersonParty
from node.arguments import (
    ExpiryType,
    IdType,
    LabelType,
    PartyType,
    PublicKeyType,
    parse_id,
    shown_time,
)
from primitives.keys import PrivateKey

HEX = "aB" * 32


def test_an_id_is_64_hexadecimal_digits() -> None:
    assert IdType("record").convert(HEX, None, None) == bytes.fromhex(HEX)
    for wrong in ("", "ab", HEX + "0", HEX[:-1] + "g", HEX[:-1] + "٣", HEX[:-2] + " a", "0x" + HEX):
        with pytest.raises(click.BadParameter, match="no record id: it must be 64 hexadecimal"):
            IdType("record").convert(wrong, None, None)


@given(st.text())
def test_what_parses_as_an_id_is_one(text: str) -> None:
    found = parse_id(text)
    assert found is None or found.hex() == text.lower()


def test_a_public_key_must_be_one() -> None:
    key = PrivateKey(bytes(32)).public
    assert PublicKeyType().convert(key.hex(), None, None) == key
    for wrong in ("00" * 32, "ff" * 32, "ab"):
        with pytest.raises(click.BadParameter, match="no public key: copy the 64 hexadecimal"):
            PublicKeyType().convert(wrong, None, None)


def test_a_party_is_an_institution_or_a_person() -> None:
    assert PartyType().convert("clinic-9", None, None) == InstitutionParty("clinic-9")
    assert PartyType().convert(HEX, None, None) == PersonParty(bytes.fromhex(HEX))
    for wrong in ("", "Clinic", "-a", "a" * 33, "a\n", HEX[:-1]):
        with pytest.raises(click.BadParameter, match="neither an institution id such as"):
            PartyType().convert(wrong, None, None)


def test_a_label_is_a_short_code() -> None:
    assert LabelType().convert("imaging/CT: chest 1.2", None, None) == "imaging/CT: chest 1.2"
    for wrong in ("", " a", "a" * 65, "Müller", "a\n", "a;b"):
        with pytest.raises(click.BadParameter, match="no label: use 1 to 64 of"):
            LabelType().convert(wrong, None, None)


def _expiry(text: str) -> int:
    return ExpiryType().convert(text, None, None)


def test_an_expiry_is_a_date_a_time_or_a_duration() -> None:
    end = datetime(2027, 12, 31, 23, 59, 59, 999_999, UTC)
    assert _expiry("2027-12-31") == int(end.timestamp() * 1000)
    assert _expiry("2027-12-31T18:00:00+08:00") == 1_830_247_200_000
    assert _expiry("2027-12-31T10:00:00Z") == 1_830_247_200_000
    now = int(datetime.now(UTC).timestamp() * 1000)
    for text, milliseconds in (("90d", 7_776_000_000), ("12h", 43_200_000), ("30m", 1_800_000)):
        assert 0 <= _expiry(text) - now - milliseconds < 60_000


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2027-13-01", "2027-12-31T18:00:00", "1d2h", "-1d", "0x1d", "1e9d", "1.5h", "٣d"],
)
def test_what_is_no_point_in_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no point in time: write a date \(2027-12-31"):
        _expiry(text)


def test_the_past_is_left_to_the_ledger_but_not_before_the_epoch() -> None:
    assert _expiry("1970-01-02") > 0
    with pytest.raises(click.BadParameter, match="is long past"):
        _expiry("1960-01-01")


@pytest.mark.parametrize("text", ["9999999d", "9999-12-31T23:59:59-23:00"])
def test_what_is_beyond_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no point in time"):
        _expiry(text)


@given(st.integers(1, 253_402_300_799_999))
def test_every_time_with_a_zone_is_taken_as_it_is(milliseconds: int) -> None:
    shown = shown_time(milliseconds)
    assert _expiry(shown.replace(" UTC", "+00:00")) == milliseconds


def test_times_are_shown_in_utc() -> None:
    assert shown_time(1_830_247_200_001) == "2027-12-31 10:00:00.001 UTC"
    assert shown_time(2**63 - 1) == "9223372036854775807 ms after 1970"
