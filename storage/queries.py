"""Queries of a database file that is only read, and what can go wrong with them."""

import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, TypeVar

from primitives.codec import CodecError, decode, decode_own
from storage import schema
from storage.errors import DamagedError, derived_path, explain
from storage.seal import SealError, read_sealed

UNREADABLE: Final = "the bytes of a row cannot be read"
T = TypeVar("T")


class Queries:
    """A connection that can neither write nor checkpoint, of the thread that made it.

    Every method raises StorageError if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
            )
        except sqlite3.Error as error:
            raise explain(error, path) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def check_ledger(self, chain_id: bytes) -> None:
        """Raise StorageError unless the file holds the ledger `chain_id`."""
        try:
            schema.check_ledger(self._connection, self._path, chain_id)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def check_seal(self) -> None:
        """Raise StorageError unless head, starts and promises are as they were stored last."""
        try:
            read_sealed(self._connection)
        except SealError as error:
            raise DamagedError(self._path, str(error)) from error
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """Return all rows of a query of this package's own."""
        return list(self.each(sql, *parameters))

    def each(self, sql: str, *parameters: object) -> Generator[Any]:
        """Yield the rows of a query of this package's own, however many."""
        try:
            yield from self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise explain(error, self._file(sql)) from error

    def _row(self, sql: str, *parameters: object) -> Any:
        try:
            return self._connection.execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise explain(error, self._file(sql)) from error

    def _file(self, sql: str) -> Path:
        """The file that a query reads."""
        return derived_path(self._path) if "derived." in sql else self._path

    def _blob(self, sql: str, parameter: object) -> bytes | None:
        row = self._row(sql, parameter)
        if row is None:
            return None
        if not isinstance(row[0], bytes):
            # SQLite takes the type of a column from the row, so damage may change it.
            raise DamagedError(self._file(sql), UNREADABLE)
        return row[0]

    def _decode(self, raw: bytes, kind: type[T], what: str, *, strict: bool = True) -> T:
        try:
            return decode(raw, kind, bytes_max=len(raw)) if strict else decode_own(raw, kind)
        except (CodecError, TypeError) as error:
            # The row may say that it holds a number or text, see `_blob`.
            raise DamagedError(self._path, f"the {what} cannot be read") from error
