"""Lines in the log about links that come and go: ten times a second, if a peer wants it."""

import structlog

LINES_MAX = 4
LINES_MS = 60 * 60 * 1_000
"""Within so long that many lines about the link to one peer are logged, and one that says so."""

log = structlog.get_logger()


class LinkLog:
    """Remembers how much was said of each peer."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[int, int]] = {}

    def tell(self, event: str, peer: str, now: int) -> None:
        """Log `event`, or that there is too much of it, or nothing. `now` is monotonic, in ms."""
        since, lines = self._said.get(peer, (now, 0))
        if now >= since + LINES_MS:
            since, lines = now, 0
        self._said[peer] = since, lines + 1
        if lines < LINES_MAX:
            log.info(event, peer=peer)
        elif lines == LINES_MAX:
            log.warning("peer_unsteady", peer=peer)
