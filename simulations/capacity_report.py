"""What capacity runs came to: a table for people, CSV, JSON and plots."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from simulations.capacity import Result
from simulations.capacity_links import LINKS
from simulations.capacity_sweep import CapacityError
from simulations.costs import Measured

HEADS = (
    "N",
    "voters",
    "quorum",
    "condition",
    "link",
    "tx/s",
    "tx/block",
    "messages/block",
    "CPU %",
    "p50 ms",
    "p95 ms",
    "p99 ms",
)


def cost_rows(measured: Measured) -> list[tuple[str, object]]:
    """The table of costs, for `emit_fields`."""
    rows: list[tuple[str, object]] = [("machine", measured.machine), ("date", measured.date)]
    return rows + [
        (name.replace("_", " "), value) for name, value in asdict(measured.costs).items()
    ]


def rows(results: Sequence[Result]) -> list[list[str]]:
    """A row a cell, under HEADS."""
    shown: list[list[str]] = []
    for result in results:
        if result.stopped:
            figures = ["stands still", *[""] * 6]
        else:
            figures = [
                f"{result.transactions_per_second:,.0f}",
                f"{result.transactions_per_block:,.0f}",
                f"{result.messages_per_block:,.0f}",
                f"{result.processor_percent:.0f}",
                f"{result.latency_ms_p50:,.0f}",
                f"{result.latency_ms_p95:,.0f}",
                f"{result.latency_ms_p99:,.0f}",
            ]
        head = [str(result.institutions), str(result.voters), result.quorum, result.condition]
        shown.append([*head, result.link, *figures])
    return shown


def document(results: Sequence[Result], costs: Measured) -> dict[str, Any]:
    """All of it, for --json."""
    return {
        "costs": {"machine": costs.machine, "date": costs.date, **asdict(costs.costs)},
        "links": {name: asdict(links) for name, links in LINKS.items()},
        "results": [asdict(result) for result in results],
    }


def csv_text(results: Sequence[Result]) -> str:
    """A line a cell, with a heading."""
    names = [field.name for field in fields(Result)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for result in results:
        values = asdict(result)
        writer.writerow([" ".join(v) if isinstance(v, tuple) else v for v in values.values()])
    return text.getvalue()


def plot(results: Sequence[Result], directory: Path) -> list[Path]:
    """Draw throughput and latency over the number of institutions, a file a condition and measure.

    Raises CapacityError if matplotlib is not installed, OSError if a file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CapacityError(
            "--plot draws with matplotlib, which is not installed: pip install 'medpact[sim]'."
        ) from error
    directory.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    measures = (
        ("transactions_per_second", "transactions per second at saturation", "throughput"),
        ("latency_ms_p95", "95th percentile of latency at half of it, ms", "latency"),
    )
    for condition in dict.fromkeys(result.condition for result in results):
        for name, label, short in measures:
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            axes = figure.add_subplot()
            for rule in dict.fromkeys(result.quorum for result in results):
                found = [
                    r
                    for r in results
                    if (r.condition, r.quorum) == (condition, rule) and not r.stopped
                ]
                sizes = [result.institutions for result in found]
                axes.plot(sizes, [getattr(r, name) for r in found], marker="o", label=rule)
            axes.set(xlabel="institutions", ylabel=label, title=condition, xscale="log")
            sizes = list(dict.fromkeys(result.institutions for result in results))
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xticks((), minor=True)
            axes.set_ylim(0, 1.1 * max([getattr(r, name) for r in results], default=1.0))
            axes.legend()
            path = directory / f"{short}-{condition.replace(' ', '-')}.png"
            figure.savefig(path, dpi=120)
            drawn.append(path)
    return drawn
