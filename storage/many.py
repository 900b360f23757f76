"""Reading what many keys hold in a few statements: a third of the cost of as many statements, and
SQLite lets go of the interpreter's lock, which other threads may want, once for all keys of one.
"""

from collections.abc import Iterator, Mapping
from typing import Final

KEYS_ASKED: Final = 256
"""Keys in one statement."""
KEYS_ASKED_MIN: Final = 32
"""Fewer are read one by one."""
_PLACES: Final = ", ".join("?" * KEYS_ASKED)
VALUES_OF: Final = f"SELECT key, value FROM derived.state_value WHERE key IN ({_PLACES})"  # noqa: S608
SEQUENCES_OF: Final = (
    "SELECT author, sequence FROM json_each(?2) CROSS JOIN batch"
    " ON batch.id = substr(?1, json_each.key * 32 + 1, 32) ORDER BY json_each.key"
)
"""Of batches by their ids, which are joined to one; an array of as many zeros comes with them."""


def take_known(left: dict[bytes, None], known: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    """Remove from `left` the keys that are in `known`; return what those hold that hold some."""
    found: dict[bytes, bytes] = {}
    for key in known.keys() & left.keys():
        del left[key]
        held = known[key]
        if held is not None:
            found[key] = held
    return found


def questions(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the parameters of VALUES_OF, often enough for all `keys`."""
    for start in range(0, len(keys), KEYS_ASKED):
        asked = keys[start : start + KEYS_ASKED]
        # One statement, whatever their number: it need not be prepared again.
        yield asked + asked[:1] * (KEYS_ASKED - len(asked))
