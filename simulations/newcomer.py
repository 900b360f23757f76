"""A node that starts with an empty disk against a long chain.

    .venv/bin/python -m simulations.newcomer [--blocks 1000] [--records 20]

Grows a chain on four real recorders, registers some files on the way, then starts an observer that
has nothing but its settings, genesis file and key. It must reach the others' head, re-hash to the
same ledger (`medpact verify`), and its proof of every record must verify offline with the file.
Exit code 0 if so, 1 if not.
"""

import argparse
import asyncio
import secrets
import sys
import time
from pathlib import Path

from rich.console import Console

from simulations.command import ask, heads, run, wait_for_equal_heads
from simulations.demo import NETWORK, attempt, expect, free_ports
from simulations.load import Load

NEWCOMER = "observer-1"
LOAD_PER_SECOND = 40
GROW_SECONDS_MAX = 600
CATCH_UP_SECONDS_MAX = 300


def create(network: Path) -> None:
    """Start four recorders; the observer waits."""
    counts = ("--recorders", "4", "--auditors", "0", "--observers", "1")
    ask("testnet", "create", network, *counts, "--base-port", str(free_ports(5)))
    for number in range(1, 5):
        ended = run("testnet", "start", network, f"recorder-{number}")
        expect(ended.code == 0, f"recorder-{number} did not start: {ended.sentence}")


def register(directory: Path, home: Path, count: int) -> dict[str, Path]:
    """Register small files; their paths by record id."""
    files = [directory / f"file {number}.bin" for number in range(count)]
    for file in files:
        file.write_bytes(secrets.token_bytes(2_000))
    made = ask("record", "register", "--category", "laboratory", *files, home=home)
    return {record["record"]: file for file, record in zip(files, made["records"], strict=True)}


async def grow(network: Path, blocks: int, console: Console) -> None:
    """Load the recorders until the chain has this many blocks."""
    load = Load([network / "recorder-1", network / "recorder-2"], LOAD_PER_SECOND)
    loading = asyncio.create_task(load.run())
    deadline = time.monotonic() + GROW_SECONDS_MAX
    try:
        while (height := await asyncio.to_thread(tallest, network)) < blocks:
            expect(time.monotonic() < deadline, f"only {height} blocks in {GROW_SECONDS_MAX} s")
            console.print(f"height {height} of {blocks}")
            await asyncio.wait((loading,), timeout=5)
    finally:
        load.stop()
        await loading


def tallest(network: Path) -> int:
    """The highest head of the nodes that answer."""
    return max(head[0] for head in heads(network).values() if head)


def join(network: Path, console: Console) -> None:
    """Start the newcomer and wait until it has the others' head."""
    expect(not (network / NEWCOMER / "data").exists(), "the newcomer's disk is not empty")
    started = time.monotonic()
    ended = run("testnet", "start", network, NEWCOMER)
    expect(ended.code == 0, f"{NEWCOMER} did not start: {ended.sentence}")
    height, head_hash = wait_for_equal_heads(network, CATCH_UP_SECONDS_MAX)
    seconds = time.monotonic() - started
    console.print(f"{NEWCOMER} has head {height} ({head_hash[:16]}...) after {seconds:.1f} s")


def prove(directory: Path, network: Path, records: dict[str, Path]) -> None:
    """The newcomer proves every record, with the opening that the custodian keeps."""
    for number, (record, file) in enumerate(records.items()):
        proof = directory / f"{number}.proof"
        ask("proof", "export", record, "-o", proof, home=network / NEWCOMER)
        sidecar = network / "recorder-1" / "sidecars" / f"{record}.sidecar"
        opening = ("--file", file, "--sidecar", sidecar)
        ask("proof", "verify", proof, "--genesis", network / "genesis.toml", *opening)


def main() -> int:
    """Run it all; 0 if the newcomer has the same ledger and proves it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=1_000)
    parser.add_argument("--records", type=int, default=20)
    arguments = parser.parse_args()

    def steps(console: Console, directory: Path) -> None:
        network = directory / NETWORK
        create(network)
        records = register(directory, network / "recorder-1", arguments.records)
        asyncio.run(grow(network, arguments.blocks, console))
        join(network, console)
        prove(directory, network, records)
        console.print(f"all {len(records)} proofs of {NEWCOMER} verify offline")
        run("testnet", "down", network)
        verified = run("verify", "--home", network / NEWCOMER)
        expect(verified.code == 0, f"verify: {verified.sentence}")
        console.print("its database re-hashes and re-executes to the same ledger")

    return attempt("newcomer", steps)


if __name__ == "__main__":
    sys.exit(main())
