"""Scenarios as JSON text, so that one that failed can be kept, read, changed by hand and run again.

Read strictly: an unknown or missing name, a member that there is not, or a time after the healing
is refused with a sentence, since a scenario that is silently another proves nothing.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec

from ledger.genesis import GenesisError
from simulations import faults
from simulations.faults import Fault
from simulations.profiles import LIES, PROFILES
from simulations.scenario import Byzantine, Scenario, Shape, Weather, found, member_ids, second_twin

T = TypeVar("T")
SCENARIO_BYTES_MAX = 1024 * 1024
MEMBERS_MAX = 100
TRANSACTIONS_MAX = 100_000
HEAL_MS_MAX = 3_600_000
_TYPES = get_type_hints(Scenario)
_KINDS = {kind.__name__: kind for kind in faults.KINDS}


class ScenarioError(ValueError):
    """A text is no scenario; the message says where, and what would be one."""


def write_scenario(scenario: Scenario) -> str:
    """The text of a scenario, from which `read_scenario` makes the same."""
    document = dataclasses.asdict(scenario)
    document["faults"] = [
        {"kind": type(fault).__name__, **dataclasses.asdict(fault)} for fault in scenario.faults
    ]
    return json.dumps(document, indent=2)


def read_scenario(text: str | bytes) -> Scenario:
    """The scenario of a text. Raises ScenarioError."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"The scenario is not JSON: {error}.") from error
    facts = dict(_fields(Scenario, document, "the scenario"))
    for name, kind in (("shape", Shape), ("storm", Weather), ("calm", Weather)):
        facts[name] = _read(kind, facts[name], name)
    for name in ("faults", "byzantine"):
        if not isinstance(facts[name], list):
            raise ScenarioError(f"{name} must be a list.")
    facts["faults"] = tuple(
        _read_fault(one, f"fault {number}") for number, one in enumerate(facts["faults"], 1)
    )
    facts["byzantine"] = tuple(
        _read(Byzantine, one, f"liar {number}") for number, one in enumerate(facts["byzantine"], 1)
    )
    for name in ("seed", "profile", "disk_ms_max", "skew_ms_max", "transactions", "heal_ms"):
        facts[name] = _convert(facts[name], _TYPES[name], name)
    facts["settings"] = _convert(facts["settings"], dict[str, int], "settings")
    scenario = Scenario(**facts)
    _check(scenario)
    return scenario


def _fields(kind: type, value: Any, where: str) -> Mapping[str, Any]:
    """The values of all fields and of no others."""
    if not isinstance(value, dict):
        raise ScenarioError(f"{where} must be a table of names and values.")
    names = [field.name for field in dataclasses.fields(kind)]
    for name in value:
        if name not in names:
            known = ", ".join(names)
            raise ScenarioError(f"{where} has an unknown name, {name!r}; known are: {known}.")
    for name in names:
        if name not in value:
            raise ScenarioError(f"{where} lacks {name}.")
    return value


def _read(kind: type[T], value: Any, where: str) -> T:
    return _convert(_fields(kind, value, where), kind, where)


def _convert(value: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{where}: {error}.") from error


def _read_fault(value: Any, where: str) -> Fault:
    if not isinstance(value, dict) or value.get("kind") not in _KINDS:
        known = ", ".join(_KINDS)
        raise ScenarioError(f"{where} needs a kind, one of: {known}.")
    kind = _KINDS[value["kind"]]
    facts = {name: fact for name, fact in value.items() if name != "kind"}
    fault: Fault = _read(kind, facts, where)
    return fault


# ---- what the types do not say -------------------------------------------------------------------


def _check(scenario: Scenario) -> None:
    shape = scenario.shape
    counts = (shape.recorders, shape.auditors, shape.observers)
    _demand(
        shape.recorders >= 1 and min(counts) >= 0 and sum(counts) <= MEMBERS_MAX,
        f"There must be at least one recorder and at most {MEMBERS_MAX} members.",
    )
    _demand(
        0 <= scenario.transactions <= TRANSACTIONS_MAX,
        f"transactions must be from 0 to {TRANSACTIONS_MAX}.",
    )
    _demand(
        1_000 <= scenario.heal_ms <= HEAL_MS_MAX,
        f"heal_ms must be from 1000 to {HEAL_MS_MAX} milliseconds.",
    )
    _demand(scenario.profile in PROFILES, f"There is no profile {scenario.profile!r}.")
    _demand(
        min(scenario.disk_ms_max, scenario.skew_ms_max) >= 0,
        "disk_ms_max and skew_ms_max must not be negative.",
    )
    for weather in (scenario.storm, scenario.calm):
        _check_weather(weather)
    _demand(scenario.calm.loss == 0, "The calm after the healing loses nothing: its loss is 0.")
    _check_liars(scenario)
    for number, fault in enumerate(scenario.faults, 1):
        _check_fault(scenario, fault, f"Fault {number}")
    try:
        found(scenario)
    except GenesisError as error:
        raise ScenarioError(f"No genesis file can be made of it: {error}") from error


def _check_weather(weather: Weather) -> None:
    delays = (weather.delay_ms_min, weather.delay_ms_mean, weather.delay_ms_max)
    _demand(
        min(delays) >= 0 and weather.delay_ms_mean > 0,
        "Delays must not be negative, and a mean delay must be above 0.",
    )
    _demand(
        0 <= weather.loss < 1 and 0 <= weather.duplication < 1,
        "loss and duplication are shares, from 0 to below 1.",
    )


def _check_liars(scenario: Scenario) -> None:
    members = member_ids(scenario.shape)
    liars = [one.who for one in scenario.byzantine]
    for one in scenario.byzantine:
        _demand(one.who in members, f"The liar {one.who} is no member.")
        _demand(liars.count(one.who) == 1, f"{one.who} lies twice; give it one kind.")
        _demand(one.kind in LIES, f"No liar is a {one.kind!r}; known are: {', '.join(LIES)}.")


def _check_fault(scenario: Scenario, fault: Fault, where: str) -> None:
    members = member_ids(scenario.shape)
    liars = [one.who for one in scenario.byzantine]
    processes = (*members, *map(second_twin, members))
    for who in faults.who_of(fault):
        _demand(who in processes, f"{where} is of {who}, which is no member.")
        # Crashes and clocks are planned by member, and a liar may be two processes.
        links = isinstance(fault, faults.Partition | faults.Mute | faults.Slow | faults.BadLink)
        _demand(links or who not in liars, f"{where} is of {who}, which lies already.")
    start = min(fault.at, getattr(fault, "copied_at", fault.at))
    _demand(
        start >= 0 and fault.at <= faults.end_of(fault),
        f"{where} ends before it begins, or begins before the run does.",
    )
    over = isinstance(fault, faults.CrashAll) or faults.end_of(fault) <= scenario.heal_ms
    _demand(over and fault.at < scenario.heal_ms, f"{where} must be over when the network heals.")
    if isinstance(fault, faults.BadLink):
        _demand(0 <= fault.loss_percent <= 100, f"{where}: loss_percent must be from 0 to 100.")
    if isinstance(fault, faults.CrashPoint):
        _demand(fault.number >= 1, f"{where}: number counts from 1.")
    if isinstance(fault, faults.Crash):
        _demand(fault.effects >= 0, f"{where}: effects counts from 0.")
    if isinstance(fault, faults.Slow | faults.BadLink):
        _demand(fault.delay_ms >= 0, f"{where}: delay_ms must not be negative.")


def _demand(fulfilled: bool, sentence: str) -> None:
    if not fulfilled:
        raise ScenarioError(sentence)
