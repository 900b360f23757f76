"""The floor: as many processes as there are nodes, each doing only what every node must do.

See storage/floor.py for what that is.
"""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from primitives.hashing import DIGEST_BYTES
from primitives.keys import PrivateKey
from simulations.bench import payload
from simulations.bench.options import BenchError
from simulations.command import CLI

TRANSACTIONS = 8_000
OPERATIONS_MAX = 80_000
"""In all transactions together."""
GROUP_OPERATIONS = 2_000
"""Stored at once, about as in a full block."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What processes at once came to. CPU times are of one process."""

    tx_per_second: float
    """From the start of the first to the end of the last: what each of them has checked by then."""
    cpu_us_per_transaction: float
    check_us_per_transaction: float
    """The signature check alone."""
    sqlite: str


def measure(directory: Path, processes: int, shape: payload.Shape, seed: int) -> Floor:
    """Measure now. Raises BenchError."""
    count = min(TRANSACTIONS, OPERATIONS_MAX // shape.operations)
    file = directory / "floor.hex"
    if not file.exists():
        _write(file, shape, count, seed)
    group = max(1, GROUP_OPERATIONS // shape.operations)
    with ExitStack() as stack:
        running = [_start(stack, file, directory, place, group) for place in range(processes)]
        ready = [_answer(process) for process in running]
        for process in running:
            _tell(process)
        took = [_answer(process) for process in running]
    for place in range(processes):
        for path in (directory / f"floor-{place}").iterdir():
            path.unlink()
    return floor(count, took, str(ready[0]["sqlite"]))


def floor(count: int, took: Sequence[dict[str, float]], sqlite: str) -> Floor:
    """What the processes' times for so many transactions come to."""
    seconds = max(each["ended"] for each in took) - min(each["started"] for each in took)
    per_transaction = 1e6 / count / len(took)
    return Floor(
        round(count / seconds, 1),
        round(sum(each["cpu_seconds"] for each in took) * per_transaction, 2),
        round(sum(each["check_cpu_seconds"] for each in took) * per_transaction, 2),
        sqlite,
    )


def mean(floors: Sequence[Floor]) -> Floor:
    """The mean of several."""
    count = len(floors)
    return Floor(
        round(sum(each.tx_per_second for each in floors) / count, 1),
        round(sum(each.cpu_us_per_transaction for each in floors) / count, 2),
        round(sum(each.check_us_per_transaction for each in floors) / count, 2),
        floors[0].sqlite,
    )


def _write(file: Path, shape: payload.Shape, count: int, seed: int) -> None:
    chance = random.Random(seed)
    chain_id, key = chance.randbytes(DIGEST_BYTES), PrivateKey(chance.randbytes(DIGEST_BYTES))
    made = payload.sign(chain_id, [key], shape, 1_000, count, chance)
    lines = [chain_id.hex(), *(signed.raw.hex() for signed in made)]
    file.write_text("\n".join(lines))


def _start(
    stack: ExitStack, file: Path, directory: Path, place: int, group: int
) -> "subprocess.Popen[str]":
    own = directory / f"floor-{place}"
    own.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "storage.floor", str(file), str(own), str(group)],
        cwd=CLI.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    stack.callback(_end, process)
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def _tell(process: "subprocess.Popen[str]") -> None:
    if process.stdin is not None:
        process.stdin.write("\n")
        process.stdin.flush()


def _answer(process: "subprocess.Popen[str]") -> dict[str, float]:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise BenchError("The floor could not be measured; the reason is above.")
    answer: dict[str, float] = json.loads(line)
    return answer
