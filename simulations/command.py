"""The `medpact` command as a user runs it: a process per call, its JSON result or its sentence."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLI = Path(__file__).resolve().parents[1] / "cli.py"
TIMEOUT_S = 120


class CommandFailed(Exception):
    """A command ended otherwise than it should; the message has its words."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def sentence(self) -> str:
        """The last line that it said to the user."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        return lines[-1].removeprefix("Error: ") if lines else ""


def run(*arguments: str | Path, home: Path | None = None) -> Ended:
    """Run `medpact ARGUMENTS` to its end."""
    environment = {**os.environ, "NO_COLOR": "1"}
    environment.pop("MEDPACT_HOME", None)
    if home is not None:
        environment["MEDPACT_HOME"] = str(home)
    done = subprocess.run(
        [sys.executable, str(CLI), *(str(argument) for argument in arguments)],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def ask(*arguments: str | Path, home: Path | None = None) -> Any:
    """Run a command that must succeed; its JSON document. Raises CommandFailed."""
    ended = run(*arguments, "--json", home=home)
    if ended.code != 0:
        words = ended.errors.strip() or ended.output.strip()
        shown = " ".join(str(argument) for argument in arguments[:3])
        raise CommandFailed(f"`medpact {shown}` ended with {ended.code}: {words}")
    return json.loads(ended.output)


def heads(directory: Path) -> dict[str, tuple[int, str] | None]:
    """Height and head hash of every node of a trial network; None for one that does not answer."""
    ended = run("testnet", "status", directory, "--json")
    return {
        node["id"]: (node["height"], node["head_hash"]) if node.get("head_hash") else None
        for node in json.loads(ended.output)["nodes"]
    }


def wait_for_equal_heads(
    directory: Path, seconds: float, among: Sequence[str] | None = None
) -> tuple[int, str]:
    """Wait until all (or these) nodes have the same head; (height, hash). Raises CommandFailed."""
    deadline = time.monotonic() + seconds
    while True:
        found = heads(directory)
        chosen = [found[name] for name in (among or sorted(found))]
        first = chosen[0]
        if first is not None and all(head == first for head in chosen):
            return first
        if time.monotonic() > deadline:
            shown = ", ".join(
                f"{name} at {head[0] if head else 'no answer'}" for name, head in found.items()
            )
            raise CommandFailed(f"the heads are not equal after {seconds:.0f} s: {shown}")
