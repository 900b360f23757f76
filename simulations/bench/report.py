"""What a benchmark found, in words and as a document."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from simulations.bench.bench import Result
from simulations.bench.figures import Latency
from simulations.bench.results import Phase

MIB = 1024 * 1024
Fields = Sequence[tuple[str, object]]


def document(result: Result) -> dict[str, object]:
    """All of it, for --json and --output."""
    return {"percent_of_floor": percent_of_floor(result), **dataclasses.asdict(result)}


def write(path: Path, found: dict[str, object]) -> None:
    """Write a document to a file; raises OSError."""
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def percent_of_floor(result: Result) -> float:
    """The one number: transactions a second at saturation, the client's share set apart."""
    return round(100 * result.of_floor.by_clock, 1)


def fields(result: Result) -> Fields:
    """Lines of name and value for people."""
    near, bytes_kept = result.of_floor, result.database_bytes_per_transaction
    found: list[tuple[str, object]] = [
        *_setting(result),
        *_floor(result),
        *_phase(f"saturation, {result.in_flight} under way", result.saturation),
        *_costs(result.saturation),
        ("own cost", f"{near.own_cost_us:.1f} us a transaction and node beyond the check"),
        ("of the floor, by clock", f"{percent_of_floor(result):.1f} % of floor"),
        ("  client not set apart", f"{100 * near.by_clock_with_client:.1f} % of floor"),
        ("of the floor, by processor", f"{100 * near.by_cpu:.1f} % of floor"),
        ("database", f"{bytes_kept:.0f} bytes a transaction and node, all phases"),
    ]
    for share, loop in result.open_loops.items():
        found += _phase(f"open loop, {share} of it", loop)
    if result.lone is not None:
        found.append(("lone, idle network", _latency(result.lone)))
    return found


def _setting(result: Result) -> Fields:
    machine, options = result.machine, result.options
    members = f"{options.recorders} recorders, {options.auditors} auditors"
    network = f"{members}, {options.observers} observers, {options.quorum} quorum"
    processor = f"{machine['cores']} cores, {machine['processor']}, {machine['kernel']}"
    software = f"Python {machine['python']}, SQLite {machine['sqlite']}"
    shape = f"{result.transaction_bytes} bytes, {options.operations} operations, one signature"
    return [
        ("date", machine["date"]),
        ("machine", f"{processor}, {software}, {machine['file_system']}"),
        ("load average before", machine["load_average_before"]),
        ("network", f"{network}; seen final at {options.watched}"),
        ("transactions", shape),
    ]


def _floor(result: Result) -> Fields:
    floor = result.floor
    before, after = (each.tx_per_second for each in result.floors)
    cpu = f"{floor.cpu_us_per_transaction:.1f} us a transaction and node"
    check = f"{floor.check_us_per_transaction:.1f} of it the signature check"
    return [
        ("floor", f"{floor.tx_per_second:.0f} tx/s (before {before:.0f}, after {after:.0f})"),
        ("floor, processor", f"{cpu}, {check}"),
    ]


def _latency(took: Latency) -> str:
    shares = f"p50 {took.p50_ms} ms, p95 {took.p95_ms} ms, p99 {took.p99_ms} ms"
    return f"{shares}, max {took.max_ms} ms"


def _phase(name: str, phase: Phase) -> Fields:
    blocks = phase.blocks
    held = f"{blocks.smallest} to {blocks.largest} transactions, mean {blocks.mean}"
    found: list[tuple[str, object]] = [
        (name, f"{phase.tx_per_second:.0f} tx/s, {phase.operations_per_second:.0f} operations/s"),
        ("  latency", _latency(phase.latency)),
        ("  blocks", f"{blocks.blocks} of {held}; {phase.view_changes} view changes"),
    ]
    found += [("  doubtful", warning) for warning in phase.warnings]
    if phase.refused:
        found.append(("  queue full", f"{phase.refused} submissions came again"))
    return found


def _costs(phase: Phase) -> Fields:
    client = f"{phase.client_cpu_seconds:.2f} s of processor time, {phase.client_share:.1%} of all"
    return [
        ("  processor", f"{phase.cpu_us_per_transaction:.1f} us a transaction and node"),
        ("  client", client),
        ("  memory", f"at most {phase.rss_bytes_max / MIB:.0f} MiB a node"),
        ("  wire", f"{phase.wire_bytes_per_transaction:.0f} bytes a transaction and node sent"),
        ("  disk", f"{phase.written_bytes_per_transaction:.0f} bytes a transaction and node"),
    ]
