"""Reading what many keys hold in a few statements: a third of the cost of as many statements, and
SQLite lets go of the interpreter's lock, which other threads may want, once for all keys of one.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

KEYS_ASKED: Final = 256
"""Keys in one statement."""
KEYS_ASKED_MIN: Final = 32
"""Fewer are read one by one."""
_PLACES: Final = ", ".join("?" * KEYS_ASKED)
VALUES_OF: Final = f"SELECT key, value FROM derived.state_value WHERE key IN ({_PLACES})"  # noqa: S608
NODES_OF: Final = f"SELECT place, node FROM derived.node WHERE place IN ({_PLACES})"  # noqa: S608
SEQUENCES_OF: Final = (
    "SELECT author, sequence FROM json_each(?2) CROSS JOIN batch"
    " ON batch.id = substr(?1, json_each.key * 32 + 1, 32) ORDER BY json_each.key"
)
"""Of batches by their ids, which are joined to one; an array of as many zeros comes with them."""

T = TypeVar("T")


def known(
    keys: Iterable[bytes], memories: Iterable[Mapping[bytes, bytes | None]]
) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return what `keys` hold by the first memory that knows, and those that none of them knows.

    Another thread may add to a memory meanwhile.
    """
    found: dict[bytes, bytes | None] = {}
    left = list(dict.fromkeys(keys))
    for memory in memories:
        if not left:
            break
        found.update([(key, memory[key]) for key in left if key in memory])
        left = [key for key in left if key not in found]
    return {key: held for key, held in found.items() if held is not None}, left


def questions(keys: list[T]) -> Iterator[list[T]]:
    """Yield the parameters of VALUES_OF or NODES_OF, often enough for all `keys`."""
    for start in range(0, len(keys), KEYS_ASKED):
        asked = keys[start : start + KEYS_ASKED]
        # One statement, whatever their number: it need not be prepared again.
        yield asked + asked[:1] * (KEYS_ASKED - len(asked))
