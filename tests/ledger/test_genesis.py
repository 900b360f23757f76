"""The genesis file: what it says, and every way of getting it wrong."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import VOTERS_MAX
from ledger.committee import committee_at
from ledger.genesis import (
    GENESIS_BYTES_MAX,
    GenesisError,
    genesis_state,
    parse_genesis,
    render_genesis,
)
from ledger.genesis_settings import LIMITS, TIMING
from ledger.state import (
    INSTITUTIONS_MAX,
    ChainHead,
    Member,
    institution_chain,
    known_chain,
    members,
)
from ledger.store import WriteGenesis
from ledger.transactions import Limits
from ledger.trie import check_value, prove_value
from primitives.hashing import ZERO_DIGEST, digest
from primitives.institution import (
    DEFAULT_CLASSES,
    INSTITUTION_TYPES,
    ConsensusClass,
    Institution,
)
from primitives.merkle import sized_root
from tests.ledger.world import TIME_MS, MemoryStore, consortium, institution

MEMBERS = consortium()
RAW = render_genesis("A test ledger", TIME_MS, MEMBERS)
TEXT = RAW.decode()


def test_what_was_written_is_read() -> None:
    genesis = parse_genesis(RAW)
    assert genesis.raw == RAW
    assert genesis.chain_id == digest("genesis", RAW)
    assert (genesis.name, genesis.time_ms, genesis.quorum) == (
        "A test ledger",
        TIME_MS,
        "per_class",
    )
    assert genesis.institutions == tuple(sorted(MEMBERS, key=lambda member: member.id))
    assert genesis.classes == DEFAULT_CLASSES
    assert genesis.limits == Limits()
    assert genesis.heartbeat_ms == 0
    (warning,) = genesis.warnings
    assert warning.startswith("The class auditor has 3 voters and tolerates no dishonest one (one")


settings = st.fixed_dictionaries(
    {},
    optional={
        key: st.integers(setting.minimum, setting.maximum)
        for key, setting in {**TIMING, **LIMITS}.items()
        if not key.startswith(("view_timeout_ms", "bench_heights"))
        and key not in ("transaction_bytes_max", "batch_bytes_max", "block_bytes_max")
    },
)
names = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=256
)


@given(names, st.integers(1, 2**62 - 1), st.sampled_from(["per_class", "pooled", "flat"]), settings)
def test_whatever_is_rendered_is_read_back(
    name: str, time_ms: int, quorum: Any, values: dict[str, int]
) -> None:
    classes = {**DEFAULT_CLASSES, "clinic": ConsensusClass.AUDITOR}
    named = [replace_name(member, name) for member in MEMBERS]
    raw = render_genesis(name, time_ms, named, quorum=quorum, classes=classes, settings=values)
    genesis = parse_genesis(raw)
    assert (genesis.name, genesis.time_ms, genesis.quorum) == (name, time_ms, quorum)
    assert genesis.classes == classes
    assert {member.name for member in genesis.institutions} == {name}
    for key, value in values.items():
        assert getattr(genesis, key, None) == value or getattr(genesis.limits, key) == value


def replace_name(member: Institution, name: str) -> Institution:
    fields = {key: getattr(member, key) for key in member.__struct_fields__}
    return Institution(**{**fields, "name": name})


def test_a_minimal_file_has_defaults() -> None:
    table = TEXT[TEXT.index("[[institutions]]") :]
    raw = f'version = 1\n[ledger]\nname = "x"\ntime_ms = 1\n{table}'.encode()
    genesis = parse_genesis(raw)
    assert (genesis.quorum, genesis.limits) == ("per_class", Limits())
    assert genesis.clock_drift_ms_max == TIMING["clock_drift_ms_max"].default


def test_any_other_byte_is_another_ledger_or_no_genesis() -> None:
    # A byte of every line, and every byte of one institution.
    positions = [i for i, byte in enumerate(RAW) if byte == ord("\n")]
    positions += range(RAW.index(b"[[institutions]]"), RAW.index(b"[[institutions]]") + 300)
    chain_id = parse_genesis(RAW).chain_id
    for position in positions:
        for mask in (0x01, 0x20, 0x80):
            changed = bytearray(RAW)
            changed[position] ^= mask
            try:
                other = parse_genesis(bytes(changed)).chain_id
            except GenesisError:
                continue
            assert other != chain_id


@given(st.binary(max_size=200))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(GenesisError):
        parse_genesis(raw)


FIRST = "[[institutions]]\n"
AUTHORITY = MEMBERS[4]
CASES = [
    ("version = 1", "version = 2", "version must be 1"),
    ("version = 1", "version = 1.0", "version must be 1"),
    ("version = 1", "version = true", "version must be 1"),
    ("version = 1\n", "", "the file lacks version. Add it"),
    ("version = 1", "version = 1\nextra = 1", "the file has an unknown key 'extra'. Remove it"),
    ("version = 1", "version = ", "not valid TOML"),
    ("version = 1", "version = " + "9" * 5000, "not valid TOML"),
    ("version = 1", "version = " + "[" * 5000, "not valid TOML"),
    ("[ledger]", "[[ledger]]", r"ledger must be a table, written \[ledger\]"),
    ("[ledger]", "[ledger]\ncolour = 1", r"\[ledger\] has an unknown key 'colour'"),
    ('name = "A test ledger"', "name = 1", r"\[ledger\] name must be text in quotes"),
    ('name = "A test ledger"', 'name = ""', r"\[ledger\] name must be 1 to 256 printable"),
    ('name = "A test ledger"', r'name = "a\nb"', r"\[ledger\] name must be 1 to 256 printable"),
    (f"time_ms = {TIME_MS}", "time_ms = 0", r"\[ledger\] time_ms is 0; it must be from 1 to"),
    (f"time_ms = {TIME_MS}", "time_ms = 1.5", r"\[ledger\] time_ms must be a whole number"),
    (f"time_ms = {TIME_MS}", "", r"\[ledger\] lacks time_ms"),
    ('"per_class"', '"majority"', r"quorum is 'majority'; it must be one of per_class, pooled"),
    ("heartbeat_ms = 0", "heartbeat_ms = -1", r"\[timing\] heartbeat_ms is -1; it must be from 0"),
    ("heartbeat_ms = 0", "heartbeat_ms = true", r"\[timing\] heartbeat_ms must be a whole number"),
    ("heartbeat_ms = 0", "heart_ms = 0", r"\[timing\] has an unknown key 'heart_ms'"),
    ("view_timeout_ms_min = 500", "view_timeout_ms_min = 40000", "must not be above"),
    ("bench_heights_min = 32", "bench_heights_min = 2000", "must not be above bench_heights_max"),
    ("batch_bytes_max = 1048576", "batch_bytes_max = 65536", "batch_bytes_max must be at least"),
    ("block_bytes_max = 4194304", "block_bytes_max = 65536", "block_bytes_max must be at least"),
    ("block_work_max = 20000", "block_work_max = 66", r"\[limits\] block_work_max is 66"),
    ("block_work_max = 20000", "block_work = 1", r"\[limits\] has an unknown key 'block_work'"),
    ('clinic = "observer"', 'clinic = "boss"', r"\[classes\] clinic must be one of recorder"),
    ('clinic = "observer"', "clinic = 1", r"\[classes\] clinic must be one of"),
    ('clinic = "observer"', 'spa = "observer"', r"\[classes\] has an unknown key 'spa'"),
    ('hospital = "recorder"', 'hospital = "auditor"', "No institution is a recorder"),
    ('id = "hospital-0"', 'id = "Hospital"', r"number 4: The id 'Hospital' is not"),
    ('id = "hospital-0"', 'id = "hospital-1"', r"number 5 has the same id as number 4"),
    ('id = "hospital-0"', "id = 7", r"number 4 id must be text"),
    ('id = "hospital-0"\n', "", r"\[\[institutions\]\] number 4 lacks id"),
    ('id = "hospital-0"', 'id = "hospital-0"\nsize = 1', r"number 4 has an unknown key 'size'"),
    (AUTHORITY.lei, AUTHORITY.lei[:-1] + "1", "fails its check digits"),
    (AUTHORITY.lei, MEMBERS[5].lei, "number 2 has the same lei as number 1"),
    (AUTHORITY.address, MEMBERS[5].address.upper(), "number 2 has the same address as number 1"),
    (AUTHORITY.address, "nowhere", "not of the form host:port"),
    (AUTHORITY.key.hex(), MEMBERS[5].key.hex(), "number 2 has the same key as number 1"),
    (AUTHORITY.key.hex(), "00" * 32, "not an Ed25519 public key"),
    (AUTHORITY.key.hex(), "ab" * 31, "not an Ed25519 public key"),
    (AUTHORITY.key.hex(), "xy" * 32, "64 lower-case hexadecimal digits"),
    (AUTHORITY.key.hex(), AUTHORITY.key.hex().upper(), "64 lower-case hexadecimal digits"),
    ('type = "health_authority"', 'type = "spaceship"', "the type 'spaceship' is unknown"),
    ('region = "CN-GD"', 'region = "Guangdong"', "not an ISO 3166 code"),
]


@pytest.mark.parametrize(("old", "new", "reason"), CASES)
def test_each_mistake_is_named(old: str, new: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(GenesisError, match=reason):
        parse_genesis(TEXT.replace(old, new, 1).encode())


def test_institutions_must_be_tables() -> None:
    head = TEXT[: TEXT.index("[ledger]")]
    tail = TEXT[TEXT.index("[ledger]") : TEXT.index(FIRST)]
    for value, reason in (
        ("institutions = []\n", "needs 1 to"),
        ("institutions = 1\n", "needs 1 to"),
        ("institutions = [1]\n", "number 1 must be a table"),
        ("", "the file lacks institutions"),
    ):
        with pytest.raises(GenesisError, match=reason):
            parse_genesis((head + value + tail).encode())
    many = "[[institutions]]\n" * (INSTITUTIONS_MAX + 1)
    with pytest.raises(GenesisError, match="needs 1 to"):
        parse_genesis((head + tail + many).encode())


def test_size_and_encoding() -> None:
    with pytest.raises(GenesisError, match="it may have"):
        parse_genesis(b"#" * (GENESIS_BYTES_MAX + 1))
    with pytest.raises(GenesisError, match="not UTF-8 text at byte 1"):
        parse_genesis(b"#\xff")


def test_rendering_refuses_what_cannot_be_read() -> None:
    with pytest.raises(GenesisError, match="no setting named speed"):
        render_genesis("x", 1, MEMBERS, settings={"speed": 1})
    with pytest.raises(GenesisError, match="printable"):
        render_genesis('a"\\\n', 1, MEMBERS)
    with pytest.raises(GenesisError, match="No institution is a recorder"):
        render_genesis("x", 1, MEMBERS[4:])


def test_no_more_voters_than_a_committee_holds() -> None:
    few = [institution(f"hospital-{n}", n) for n in range(VOTERS_MAX - 1)]
    others = [institution(f"institute-{n}", 1_000 + n) for n in range(2)]
    assert len(parse_genesis(render_genesis("x", 1, few + others)).institutions) == 257
    with pytest.raises(GenesisError, match="257 institutions would vote; the maximum is 256"):
        render_genesis("x", 1, few + others, quorum="flat")


@pytest.mark.parametrize(
    ("members", "quorum", "warnings"),
    [
        (consortium(4, 4, 1), "per_class", []),
        (consortium(4, 0, 1), "per_class", ["no auditor"]),
        (consortium(1, 4, 1), "per_class", ["class recorder has 1 voter and"]),
        (consortium(2, 1, 1), "pooled", ["The ledger has 3 voters"]),
        (consortium(1, 0, 2), "flat", ["The ledger has 3 voters"]),
        (consortium(1, 0, 3), "flat", []),
    ],
)
def test_what_tolerates_no_fault_is_said(
    members: list[Institution], quorum: Any, warnings: list[str]
) -> None:
    found = parse_genesis(render_genesis("x", 1, members, quorum=quorum)).warnings
    assert len(found) == len(warnings)
    assert all(part in text for part, text in zip(warnings, found, strict=True))


def test_the_genesis_block_holds_the_members() -> None:
    genesis = parse_genesis(RAW)
    header, changes = genesis_state(genesis)
    store = MemoryStore()
    store.write(WriteGenesis(header, changes))
    assert (header.height, header.parent_hash, header.proposer) == (0, ZERO_DIGEST, "")
    assert header.batches_root == header.directory_root == header.receipts_root == sized_root(())
    assert header.time_ms == genesis.time_ms
    assert header.next_committee_hash == committee_at(store, genesis).hash
    assert members(store) == genesis.institutions
    for member in genesis.institutions:
        chain = institution_chain(member.id)
        assert known_chain(store, chain) == ChainHead(0, ZERO_DIGEST, Member(member.id))
    for key, value in store.values.items():
        check_value(prove_value(store, key), key, value, header.state_root)


def test_every_type_is_rendered_and_every_setting_has_a_comment() -> None:
    for kind in INSTITUTION_TYPES:
        assert f'\n{kind} = "{DEFAULT_CLASSES[kind]}"\n' in TEXT
    for key, setting in {**TIMING, **LIMITS}.items():
        assert f"# {setting.meaning}\n{key} = {setting.default}\n" in TEXT
        assert setting.minimum <= setting.default <= setting.maximum


def test_a_genesis_cannot_be_altered() -> None:
    genesis = parse_genesis(RAW)
    assert replace(genesis, name="b") != genesis
    with pytest.raises(TypeError):
        genesis.classes["clinic"] = ConsensusClass.RECORDER  # type: ignore[index]
