"""What is in a database, raw, for checkers that must not share the node's code.

    python -m storage.dump

Reads one request a line from standard input, {"number", "path", "above": HEIGHT or null}, and
answers each with a line: {"number", "head", "promises": [{"signed", "prepared"}], "blocks": [...]},
or {"number", "error"} with a sentence. The file may belong to a running node: it is only read, and
closed again after each answer. Blocks above `above` are given in full, none for null; all bytes are
hexadecimal.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ledger.execution import payload_batches
from primitives.codec import encode
from storage.errors import StorageError
from storage.reader import SqliteReader


def dump(path: Path, above: int | None) -> dict[str, Any]:
    """One answer; raises StorageError if the file cannot be read."""
    reader = SqliteReader(path, ledger_alone=True)
    try:
        with reader.snapshot():
            return {
                "head": reader.head_height(),
                "promises": [
                    {"signed": signed.hex(), "prepared": prepared and prepared.hex()}
                    for signed, prepared in reader.rows(
                        "SELECT signed, prepared FROM promise ORDER BY number"
                    )
                ],
                "blocks": [] if above is None else list(_blocks(reader, above)),
            }
    finally:
        reader.close()


def _blocks(reader: SqliteReader, above: int) -> Iterator[dict[str, Any]]:
    for height in range(max(above, 0) + 1, (reader.head_height() or 0) + 1):
        decision, receipts = reader.decision(height), reader.receipts(height)
        if decision is None or receipts is None:
            raise StorageError(f"block {height} is not there")
        batches = [reader.batch(id) for id in payload_batches(decision.block.payload)]
        yield {
            "decision": encode(decision).hex(),
            "receipts": encode(receipts).hex(),
            "batches": [None if raw is None else raw.hex() for raw in batches],
        }


def main() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = dump(Path(request["path"]), request["above"])
        except StorageError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps({"number": request["number"], **answer}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
