"""A link that comes and goes is logged a few times an hour."""

import structlog

from node.link_log import LINES_MAX, LINES_MS, LinkLog


def test_an_unsteady_link_falls_silent_for_an_hour() -> None:
    links = LinkLog()
    with structlog.testing.capture_logs() as logs:
        for number in range(1_000):
            links.tell("peer_connected", "recorder-4", 5_000 + number)
        links.tell("peer_connected", "recorder-2", 5_000)
        links.tell("peer_disconnected", "recorder-4", 5_000 + LINES_MS)
    told = [(entry["event"], entry["peer"]) for entry in logs]
    assert told == [
        *[("peer_connected", "recorder-4")] * LINES_MAX,
        ("peer_unsteady", "recorder-4"),
        ("peer_connected", "recorder-2"),
        ("peer_disconnected", "recorder-4"),
    ]
