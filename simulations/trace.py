"""What happened in a run, line by line: a digest to compare runs by, and the story for who asks."""

import hashlib
from collections import Counter
from collections.abc import Callable

Detail = str | int | bytes


class Trace:
    """Hashes every line. `show`, if given, gets those that tell the story: time, who, what."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.sha256()
        self._show = show
        self.counts: Counter[str] = Counter()
        """How often each thing was told."""

    def note(self, now: int, who: str, what: str, *details: Detail) -> None:
        """Take a line into the digest."""
        self._hash.update(f"\n{now} {who} {what}".encode())
        for detail in details:
            self._hash.update(detail if isinstance(detail, bytes) else f" {detail}".encode())

    def tell(self, now: int, who: str, what: str, *details: Detail) -> None:
        """Take a line into the digest, count it, and show it."""
        self.counts[what] += 1
        self.note(now, who, what, *details)
        if self._show is not None:
            texts = (d[:4].hex() if isinstance(d, bytes) else str(d) for d in details)
            self._show(f"{now / 1000:9.3f}  {who:<13} {what:<15} {' '.join(texts)}".rstrip())

    def digest(self) -> str:
        """Hexadecimal SHA-256 of all lines so far."""
        return self._hash.hexdigest()
