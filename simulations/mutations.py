"""The table of bugs to plant, simulations/mutations.toml, and how one is planted."""

import tomllib
from pathlib import Path
from typing import Final

import msgspec

TABLE: Final = Path(__file__).with_suffix(".toml")


class MutationError(Exception):
    """A mutation that does not fit the code, or a hunt that broke."""


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in a file, once, and what shall stand there instead."""

    path: str
    old: str
    new: str


class Mutation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One bug, and the profiles in which it should show."""

    name: str
    meaning: str
    profiles: tuple[str, ...]
    edit: tuple[Edit, ...]


def read_mutations() -> tuple[Mutation, ...]:
    """Return the table."""
    document = tomllib.loads(TABLE.read_text())
    return msgspec.convert(document["mutation"], tuple[Mutation, ...])


def mutate(root: Path, mutation: Mutation) -> None:
    """Plant a bug in the code under `root`. Raises MutationError if it does not fit."""
    for edit in mutation.edit:
        file = root / edit.path
        text = file.read_text()
        if text.count(edit.old) != 1:
            raise MutationError(
                f"{mutation.name}: {edit.path} has the text {edit.old.strip()!r} "
                f"{text.count(edit.old)} times; it must have it once."
            )
        file.write_text(text.replace(edit.old, edit.new))
