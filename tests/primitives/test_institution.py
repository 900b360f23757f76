"""Institutions: real LEIs, addresses, and the exact reason for every refusal."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.codec import CodecError, decode, encode
from primitives.institution import (
    DEFAULT_CLASSES,
    INSTITUTION_TYPES,
    ConsensusClass,
    Institution,
    InstitutionError,
    check_institution,
    check_lei,
    lei_with_check_digits,
    parse_address,
)
from primitives.keys import PrivateKey

# The GLEIF's own, Jaguar Land Rover, Bloomberg, Apple, the Bank of Nova Scotia, python-stdnum's.
REAL_LEIS = [
    "506700GE1G29325QX363",
    "213800WSGIIZCXF1P572",
    "5493001KJTIIGC8Y1R12",
    "HWUPKR0MPOU8FGXBT394",
    "L3I9ZG2KFGXZ61BMYR72",
    "213800KUD8LAJWSQ9D15",
]
LEI_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HOSPITAL = Institution(
    id="east-hospital",
    name="\u4e1c\u65b9\u533b\u9662 (East Hospital)",
    type="tertiary_hospital",
    region="CN-GD",
    lei=lei_with_check_digits("EXAMPLE0HOSPITAL00"),
    key=PrivateKey(bytes(32)).public,
    address="node.hospital.example:7600",
)

stems = st.text(LEI_ALPHABET, min_size=18, max_size=18)


def test_a_right_institution_is_accepted_and_travels() -> None:
    check_institution(HOSPITAL)
    assert decode(encode(HOSPITAL), Institution, bytes_max=1000) == HOSPITAL


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("id", "Hospital", "'Hospital' is not 1 to 32"),
        ("id", "", "'' is not 1 to 32"),
        ("id", "a\n", r"'a\\n' is not"),
        ("name", "", "the name has 0 characters"),
        ("name", "x" * 257, "the name has 257 characters"),
        ("name", "two\nlines", "control character"),
        ("name", "\x1b[31mred", "control character"),
        ("type", "hospital", "the type 'hospital' is unknown; use one of tertiary_hospital, "),
        ("region", "China", "the region 'China' is not an ISO 3166 code"),
        ("region", "cn", "the region 'cn'"),
        ("region", "CN-", "the region 'CN-'"),
        ("region", "CN-GDXX", "the region 'CN-GDXX'"),
        ("region", "CN\n", r"the region 'CN\\n'"),
        ("lei", "5493001KJTIIGC8Y1R13", "east-hospital: The LEI 5493001KJTIIGC8Y1R13 fails"),
        ("key", bytes(32), "not an Ed25519 public key"),
        ("key", HOSPITAL.key[:31], "not an Ed25519 public key"),
        ("address", "node", "east-hospital: The address 'node' is not of the form host:port"),
    ],
)
def test_a_wrong_field_is_refused_with_its_reason(field: str, value: Any, reason: str) -> None:
    with pytest.raises(InstitutionError, match=reason):
        check_institution(msgspec.structs.replace(HOSPITAL, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "Hospital"),
        ("name", ""),
        ("name", "x" * 257),
        ("type", ""),
        ("region", "China"),
        ("region", "CN\n"),
        ("lei", "5493001KJTIIGC8Y1R1"),
        ("lei", "5493001kjtiigc8y1r12"),
        ("key", bytes(31)),
        ("address", ""),
        ("address", "a" * 261),
    ],
)
def test_the_codec_refuses_the_wrong_shape(field: str, value: Any) -> None:
    with pytest.raises(CodecError):
        decode(
            encode(msgspec.structs.replace(HOSPITAL, **{field: value})),
            Institution,
            bytes_max=1000,
        )


@pytest.mark.parametrize("region", ["CN", "CN-GD", "HK", "FR-75C", "US-CA", "GB-1"])
def test_regions(region: str) -> None:
    check_institution(msgspec.structs.replace(HOSPITAL, region=region))


def test_every_type_has_a_class() -> None:
    assert tuple(DEFAULT_CLASSES) == INSTITUTION_TYPES
    by_class = {
        kind: [name for name, value in DEFAULT_CLASSES.items() if value is kind]
        for kind in ConsensusClass
    }
    assert by_class[ConsensusClass.RECORDER] == ["tertiary_hospital", "health_information_exchange"]
    assert by_class[ConsensusClass.AUDITOR] == ["health_authority", "regulator", "notary_office"]
    assert len(by_class[ConsensusClass.OBSERVER]) == 6
    with pytest.raises(TypeError):
        DEFAULT_CLASSES["clinic"] = ConsensusClass.RECORDER  # type: ignore[index]


@pytest.mark.parametrize("lei", REAL_LEIS)
def test_real_leis(lei: str) -> None:
    check_lei(lei)
    assert lei_with_check_digits(lei[:18]) == lei


@given(stems)
def test_check_digits_make_an_lei(stem: str) -> None:
    lei = lei_with_check_digits(stem)
    check_lei(lei)
    assert lei.startswith(stem)
    assert 2 <= int(lei[18:]) <= 98


@given(stems, st.integers(0, 19), st.sampled_from(LEI_ALPHABET))
def test_a_mistyped_character_is_found(stem: str, position: int, character: str) -> None:
    # MOD 97-10 finds each exchange of a digit for a digit or a letter for a letter.
    lei = lei_with_check_digits(stem)
    old = lei[position]
    if old == character or old.isdigit() != character.isdigit():
        return
    with pytest.raises(InstitutionError, match="fails its check digits"):
        check_lei(lei[:position] + character + lei[position + 1 :])


@pytest.mark.parametrize(
    ("lei", "reason"),
    [
        ("", "has 0 characters; an LEI has 20"),
        ("5493001KJTIIGC8Y1R1", "has 19 characters"),
        ("5493001KJTIIGC8Y1R123", "has 21 characters"),
        ("5493001KJTIIGC8Y1r12", "'r' as character 18; only digits and upper-case"),
        ("5493 01KJTIIGC8Y1R12", "' ' as character 5"),
        ("5493001KJTIIGC8Y1R1\n", r"'\\n' as character 20"),
        ("5493001KJTIIGC8Y1R\u0661\u0662", r"'\\u0661' as character 19"),
        ("5493001KJTIIGC8Y1R1A", "does not end in two check digits"),
        ("5493001KJTIIGC8Y1R21", "fails its check digits"),
        ("5493001KJTIIGC8Y1R00", "fails its check digits"),
    ],
)
def test_a_wrong_lei_is_refused_with_its_reason(lei: str, reason: str) -> None:
    with pytest.raises(InstitutionError, match=reason):
        check_lei(lei)


@pytest.mark.parametrize(
    ("stem", "reason"),
    [("ABC", "has 3 characters; an LEI has 18"), ("a" * 18, "'a' as character 1")],
)
def test_a_wrong_stem_has_no_check_digits(stem: str, reason: str) -> None:
    with pytest.raises(InstitutionError, match=reason):
        lei_with_check_digits(stem)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("localhost:7600", "localhost", 7600),
        ("node-1.Hospital.example:1", "node-1.Hospital.example", 1),
        ("10.0.0.255:65535", "10.0.0.255", 65535),
        ("[::1]:7600", "::1", 7600),
        ("[2001:db8::1:2]:80", "2001:db8::1:2", 80),
        ("1a.2b:80", "1a.2b", 80),
        ("3com:80", "3com", 80),
        (
            ".".join(["a" * 63] * 3 + ["b" * 61]) + ":65535",
            ".".join(["a" * 63] * 3 + ["b" * 61]),
            65535,
        ),
    ],
)
def test_addresses(address: str, host: str, port: int) -> None:
    assert parse_address(address) == (host, port)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "not of the form host:port"),
        ("host", "not of the form host:port"),
        (":80", "not of the form host:port"),
        ("host:", "no port number from 1 to 65535"),
        ("host:0", "no port number"),
        ("host:65536", "no port number"),
        ("host:080", "no port number"),
        ("host:+80", "no port number"),
        ("host: 80", "no port number"),
        ("host:80\n", "no port number"),
        ("host:\u0661", "no port number"),
        ("host:999999999999", "no port number"),
        ("::1:80", "write an IPv6 address in brackets"),
        ("[::1]", "no port number"),
        ("[]:80", "no IPv6 address in its brackets"),
        ("[10.0.0.1]:80", "no IPv6 address in its brackets"),
        ("[fe80::1%eth0]:80", "names a zone"),
        ("[::1:80", "several colons"),
        ("[host:80", "does not start with a host name"),
        ("-a.example:80", "does not start with a host name"),
        ("a..b:80", "does not start with a host name"),
        ("a.example.:80", "does not start with a host name"),
        ("a b:80", "does not start with a host name"),
        ("h\u00f4pital.example:80", "does not start with a host name"),
        ("a" * 64 + ":80", "does not start with a host name"),
        ("a." * 126 + "aa:80", "does not start with a host name"),
        ("10.0.0.256:80", "neither a host name nor an IPv4 address"),
        ("10.0.0.01:80", "neither a host name nor an IPv4 address"),
        ("10.0.0:80", "neither a host name nor an IPv4 address"),
        ("a.1:80", "neither a host name nor an IPv4 address"),
        ("a" * 300 + ":80", "longer than 260 characters"),
    ],
)
def test_a_wrong_address_is_refused_with_its_reason(address: str, reason: str) -> None:
    with pytest.raises(InstitutionError, match=reason):
        parse_address(address)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_refused(address: str) -> None:
    try:
        host, port = parse_address(address)
    except InstitutionError:
        return
    assert address in (f"{host}:{port}", f"[{host}]:{port}")
