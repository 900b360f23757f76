"""The genesis file: who founds a ledger and under which rules, in TOML; its digest is the chain id.

The chain id is over the raw bytes, so that any two files that differ, if only in a comment, are two
ledgers, and no two nodes can believe they share one while they read it differently. Reading is
strict: whatever is not understood is refused with its place and what to do about it.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast, get_args

from consensus.committee import VOTERS_MAX, QuorumRule, faulty_max, quorum_size
from ledger.committee import committee_of
from ledger.genesis_settings import LIMITS, TIMING, Setting
from ledger.standing import (
    STANDING_KEY,
    CommitteeRecord,
    KeyOwner,
    Standing,
    committee_key,
    owner_key,
)
from ledger.state import (
    INSTITUTIONS_MAX,
    MEMBERS_KEY,
    EmptyState,
    Member,
    Members,
    Overlay,
    chain_key,
    institution_chain,
    new_chain,
)
from ledger.store import StateChanges
from ledger.transactions import ENVELOPE_BYTES_MAX, Limits
from ledger.trie import update
from primitives.block import HEADER_VERSION, BlockHeader
from primitives.codec import SHORT_TEXT_CHARS_MAX, UINT_MAX
from primitives.hashing import ZERO_DIGEST, digest
from primitives.institution import (
    DEFAULT_CLASSES,
    INSTITUTION_TYPES,
    ConsensusClass,
    Institution,
    InstitutionError,
    check_institution,
)
from primitives.merkle import sized_root

GENESIS_VERSION: Final = 1
GENESIS_BYTES_MAX: Final = 1024 * 1024
QUORUM_RULES: Final[tuple[str, ...]] = get_args(QuorumRule)

_INSTITUTION_KEYS: Final = ("id", "name", "type", "region", "lei", "key", "address")
_UNIQUE: Final = ("id", "key", "address", "lei")


class GenesisError(ValueError):
    """A genesis file that cannot found a ledger; the message names the place and what to do."""


@dataclass(frozen=True, slots=True)
class Genesis:
    """A genesis file that was read and checked. Durations are in milliseconds."""

    chain_id: bytes
    """digest("genesis", raw), 32 bytes."""
    raw: bytes
    name: str
    time_ms: int
    """The time of the genesis block, in milliseconds since 1970-01-01 00:00 UTC."""
    quorum: QuorumRule
    institutions: tuple[Institution, ...]
    """The founding members, sorted by id."""
    classes: Mapping[str, ConsensusClass]
    """The consensus class of every institution type."""
    limits: Limits
    clock_drift_ms_max: int
    heartbeat_ms: int
    """0: no blocks without transactions."""
    censorship_heights: int
    bench_heights_min: int
    bench_heights_max: int
    evidence_heights_max: int
    view_timeout_ms_min: int
    view_timeout_ms_max: int
    resend_ms: int
    batch_delay_ms: int
    warnings: tuple[str, ...]
    """What is legal but should be known before going live."""


def parse_genesis(raw: bytes) -> Genesis:
    """Return the genesis that the bytes of a genesis file describe. Raises GenesisError."""
    document = _read_toml(raw)
    _check_keys(
        "the file", document, ("version", "ledger", "institutions"), ("timing", "limits", "classes")
    )
    if document["version"] != GENESIS_VERSION or type(document["version"]) is not int:
        raise GenesisError(f"version must be {GENESIS_VERSION}: this program reads no other.")
    ledger = _table(document, "ledger")
    _check_keys("[ledger]", ledger, ("name", "time_ms"), ("quorum",))
    quorum = _text("[ledger]", ledger.get("quorum", "per_class"), "quorum")
    if quorum not in QUORUM_RULES:
        raise GenesisError(
            f"[ledger] quorum is {quorum!r}; it must be one of {', '.join(QUORUM_RULES)}."
        )
    classes = _read_classes(_table(document, "classes"))
    timing = _read_settings("[timing]", _table(document, "timing"), TIMING)
    limits = Limits(**_read_settings("[limits]", _table(document, "limits"), LIMITS))
    institutions = _read_institutions(document["institutions"])
    _check_relations(timing, limits)
    rule = cast(QuorumRule, quorum)
    return Genesis(
        chain_id=digest("genesis", raw),
        raw=raw,
        name=_read_name(ledger["name"]),
        time_ms=_integer("[ledger]", ledger["time_ms"], "time_ms", 1, UINT_MAX // 2),
        quorum=rule,
        institutions=institutions,
        classes=classes,
        limits=limits,
        warnings=_check_voters(institutions, classes, rule),
        **timing,
    )


def render_genesis(
    name: str,
    time_ms: int,
    institutions: Sequence[Institution],
    *,
    quorum: QuorumRule = "per_class",
    classes: Mapping[str, ConsensusClass] = DEFAULT_CLASSES,
    settings: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    """Return a commented genesis file that `parse_genesis` accepts. Raises GenesisError.

    `settings` holds values of [timing] and [limits] by name; the others get their defaults.
    """
    unknown = [key for key in settings if key not in TIMING and key not in LIMITS]
    if unknown:
        raise GenesisError(f"There is no setting named {unknown[0]}.")
    lines = [
        "# The genesis file of a ledger. Every member has the same file, byte for byte: its digest",
        "# is the ledger's id, so a single changed character makes another ledger.",
        f"version = {GENESIS_VERSION}",
        "",
        "[ledger]",
        f"name = {_quote(name)}",
        "# Milliseconds since 1970-01-01 00:00 UTC; the first block is later.",
        f"time_ms = {time_ms}",
        "# per_class: a quorum in every voting class. pooled: one quorum of all voters.",
        "# flat: every institution votes.",
        f"quorum = {_quote(quorum)}",
    ]
    for section, table in (("timing", TIMING), ("limits", LIMITS)):
        lines += ["", f"[{section}]"]
        for key, setting in table.items():
            lines += [f"# {setting.meaning}", f"{key} = {settings.get(key, setting.default)}"]
    lines += [
        "",
        "# What institutions of each type do: recorders propose blocks and vote, auditors vote,",
        "# observers hold a copy and submit.",
        "[classes]",
        *(f"{kind} = {_quote(classes[kind].value)}" for kind in INSTITUTION_TYPES),
    ]
    for institution in sorted(institutions, key=lambda institution: institution.id):
        lines += ["", "[[institutions]]"]
        for key in _INSTITUTION_KEYS:
            value = institution.key.hex() if key == "key" else getattr(institution, key)
            lines.append(f"{key} = {_quote(value)}")
    raw = ("\n".join(lines) + "\n").encode()
    parse_genesis(raw)
    return raw


def genesis_state(genesis: Genesis) -> tuple[BlockHeader, StateChanges]:
    """Return the header at height 0, which nobody proposed, and the state it stands for."""
    overlay = Overlay(EmptyState())
    overlay.write(MEMBERS_KEY, Members(genesis.institutions))
    for institution in genesis.institutions:
        head = new_chain(Member(institution.id))
        overlay.write(chain_key(institution_chain(institution.id)), head)
        overlay.write(owner_key(institution.key), KeyOwner(institution.id, True))
    committee = committee_of(genesis.institutions, genesis.classes, genesis.quorum)
    overlay.write(committee_key(1), CommitteeRecord(committee.voters, previous=0))
    overlay.write(STANDING_KEY, Standing(committee.roster, (), (), 1, None))
    changes = update(EmptyState(), overlay.written())
    nothing = sized_root(())
    header = BlockHeader(
        version=HEADER_VERSION,
        chain_id=genesis.chain_id,
        height=0,
        parent_hash=ZERO_DIGEST,
        view=0,
        proposer="",
        time_ms=genesis.time_ms,
        batches_root=nothing,
        directory_root=nothing,
        receipts_root=nothing,
        state_root=changes.root,
        next_committee_hash=committee.hash,
    )
    return header, changes


def _read_toml(raw: bytes) -> dict[str, Any]:
    if len(raw) > GENESIS_BYTES_MAX:
        raise GenesisError(
            f"The genesis file has {len(raw)} bytes; it may have {GENESIS_BYTES_MAX}."
        )
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise GenesisError(f"The genesis file is not UTF-8 text at byte {error.start}.") from error
    except tomllib.TOMLDecodeError as error:
        raise GenesisError(f"The genesis file is not valid TOML: {error}.") from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or brackets nested without end.
        raise GenesisError("The genesis file is not valid TOML: a value is too large.") from error


def _read_name(value: object) -> str:
    name = _text("[ledger]", value, "name")
    if not 1 <= len(name) <= SHORT_TEXT_CHARS_MAX or not name.isprintable():
        raise GenesisError(
            f"[ledger] name must be 1 to {SHORT_TEXT_CHARS_MAX} printable characters."
        )
    return name


def _read_classes(table: dict[str, Any]) -> Mapping[str, ConsensusClass]:
    classes = dict(DEFAULT_CLASSES)
    _check_keys("[classes]", table, (), INSTITUTION_TYPES)
    for kind, value in table.items():
        if value not in tuple(ConsensusClass):
            raise GenesisError(f"[classes] {kind} must be one of {', '.join(ConsensusClass)}.")
        classes[kind] = ConsensusClass(value)
    return MappingProxyType(classes)


def _read_settings(
    place: str, table: dict[str, Any], settings: Mapping[str, Setting]
) -> dict[str, int]:
    _check_keys(place, table, (), tuple(settings))
    return {
        key: _integer(place, table.get(key, setting.default), key, setting.minimum, setting.maximum)
        for key, setting in settings.items()
    }


def _read_institutions(entries: object) -> tuple[Institution, ...]:
    if not isinstance(entries, list) or not 1 <= len(entries) <= INSTITUTIONS_MAX:
        raise GenesisError(
            f"A ledger needs 1 to {INSTITUTIONS_MAX} institutions, each in a table that begins "
            "with [[institutions]]."
        )
    institutions: list[Institution] = []
    places: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(entries, start=1):
        place = f"[[institutions]] number {number}"
        if not isinstance(entry, dict):
            raise GenesisError(f"{place} must be a table.")
        _check_keys(place, entry, _INSTITUTION_KEYS, ())
        texts = {key: _text(place, entry[key], key) for key in _INSTITUTION_KEYS}
        for key in _UNIQUE:
            first = places.setdefault((key, texts[key].lower()), number)
            if first != number:
                raise GenesisError(
                    f"{place} has the same {key} as number {first}: each institution needs its own."
                )
        institutions.append(_institution(place, texts))
    return tuple(sorted(institutions, key=lambda institution: institution.id))


def _institution(place: str, texts: dict[str, str]) -> Institution:
    try:
        key = bytes.fromhex(texts["key"])
    except ValueError:
        key = b""
    if key.hex() != texts["key"]:
        raise GenesisError(f"{place}: the key must be 64 lower-case hexadecimal digits.")
    institution = Institution(
        id=texts["id"],
        name=texts["name"],
        type=texts["type"],
        region=texts["region"],
        lei=texts["lei"],
        key=key,
        address=texts["address"],
    )
    try:
        check_institution(institution)
    except InstitutionError as error:
        raise GenesisError(f"{place}: {error}") from error
    return institution


def _check_relations(timing: dict[str, int], limits: Limits) -> None:
    if timing["view_timeout_ms_min"] > timing["view_timeout_ms_max"]:
        raise GenesisError("[timing] view_timeout_ms_min must not be above view_timeout_ms_max.")
    if timing["bench_heights_min"] > timing["bench_heights_max"]:
        raise GenesisError("[timing] bench_heights_min must not be above bench_heights_max.")
    if limits.transaction_bytes_max + ENVELOPE_BYTES_MAX > limits.batch_bytes_max:
        raise GenesisError(
            f"[limits] batch_bytes_max must be at least {ENVELOPE_BYTES_MAX} above "
            "transaction_bytes_max: else a large transaction fits no batch."
        )
    if limits.batch_bytes_max > limits.block_bytes_max:
        raise GenesisError(
            "[limits] block_bytes_max must be at least batch_bytes_max: else a large batch fits "
            "no block."
        )


def _check_voters(
    institutions: Sequence[Institution], classes: Mapping[str, ConsensusClass], quorum: QuorumRule
) -> tuple[str, ...]:
    duties = [classes[institution.type] for institution in institutions]
    if ConsensusClass.RECORDER not in duties:
        raise GenesisError(
            "No institution is a recorder, so nobody could propose a block: add one of type "
            f"{' or '.join(k for k in INSTITUTION_TYPES if classes[k] is ConsensusClass.RECORDER)}."
        )
    voters = (
        len(institutions)
        if quorum == "flat"
        else len(duties) - duties.count(ConsensusClass.OBSERVER)
    )
    if voters > VOTERS_MAX:
        raise GenesisError(f"{voters} institutions would vote; the maximum is {VOTERS_MAX}.")
    warnings = []
    if quorum != "flat" and ConsensusClass.AUDITOR not in duties:
        warnings.append("There is no auditor: recorders alone decide what the ledger says.")
    for group, n in committee_of(institutions, classes, quorum).group_sizes.items():
        if faulty_max(n) == 0:
            who = "The ledger" if quorum != "per_class" else f"The class {group}"
            spare = n - quorum_size(n)
            stops = "one may stop" if spare else "if one stops, everything stops"
            warnings.append(
                f"{who} has {n} voter{'s' if n > 1 else ''} and tolerates no dishonest one "
                f"({stops}). Four tolerate one."
            )
    return tuple(warnings)


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise GenesisError(f"{key} must be a table, written [{key}].")
    return table


def _check_keys(
    place: str, table: dict[str, Any], required: Sequence[str], optional: Sequence[str]
) -> None:
    allowed = (*required, *optional)
    for key in table:
        if key not in allowed:
            raise GenesisError(
                f"{place} has an unknown key {key!r}. Remove it, or use one of "
                f"{', '.join(allowed)}."
            )
    for key in required:
        if key not in table:
            raise GenesisError(f"{place} lacks {key}. Add it.")


def _text(place: str, value: object, key: str) -> str:
    if not isinstance(value, str):
        raise GenesisError(f"{place} {key} must be text in quotes.")
    return value


def _integer(place: str, value: object, key: str, minimum: int, maximum: int) -> int:
    if type(value) is not int:
        raise GenesisError(f"{place} {key} must be a whole number.")
    if not minimum <= value <= maximum:
        raise GenesisError(f"{place} {key} is {value}; it must be from {minimum} to {maximum}.")
    return value


def _quote(text: str) -> str:
    """Return `text` as a TOML basic string, every character that could be misread escaped."""
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08X}"
