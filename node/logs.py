"""Structured logs on standard output, JSON lines or plain text: facts, never data or keys."""

import io
import logging
import os
import sys
from typing import TextIO, cast

import structlog

from node.config import LogFormat, LogLevel

SENTENCES = {
    "clock_differs": "The proposer's clock and ours differ by more than the ledger allows; this "
    "block was not voted for. If several proposers are reported, check this machine's clock (NTP).",
    "block_invalid": "A block was proposed that is not valid on our head; it was not voted for.",
    "contradiction": "An institution signed two messages that contradict each other; its node may "
    "run twice with one key, or be dishonest.",
    "abstaining": "This home was restored from a backup and may have forgotten votes; the node "
    "does not vote until a quorum of the others is seen, and our head is two blocks above theirs. "
    "Where they have no quorum without this node, that never happens: see the option "
    "--override-restored-backup of `medpact start`.",
    "abstained": "The others have gone on far enough: this node votes again.",
    "peer_at_fault": "A member sent what it should not, or too much of it. The node bounds what "
    "that can cost; `medpact peers` counts it, and docs/operating.md explains each reason.",
    "peer_unsteady": "The link to this member comes and goes; that is not logged for an hour now.",
    "batch_left_out": "A batch of this author was left out while later ones were taken; the view "
    "is being changed.",
}
"""What an operator should read next to the name of an event, or the reason of a fault."""


class Output(io.TextIOBase):
    """Lines for a file or pipe. One that cannot be written is dropped: that the disk of the log is
    full, or its reader gone, must not stop the node.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._torn = False

    def write(self, text: str) -> int:
        """Write whole lines at once, unbuffered: what is kept back would fail again at the end."""
        rest = ("\n" * self._torn + text).encode("utf-8", "backslashreplace")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._torn = True
        else:
            self._torn = False
        return len(text)


def _standard_output() -> TextIO:
    # Where it was closed before we started, its number is another file's by now.
    return io.StringIO() if sys.stdout is None else cast("TextIO", Output(sys.stdout.fileno()))


def configure(level: LogLevel, form: LogFormat) -> None:
    """Send the project's and the libraries' logs to standard output."""
    threshold = getattr(logging, level.upper())
    output = _standard_output()
    logging.basicConfig(stream=output, level=logging.WARNING, format="%(message)s", force=True)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _explain,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=True,
    )


def _explain(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    reason = event.get("reason") if event["event"] == "peer_at_fault" else None
    sentence = SENTENCES.get(str(reason)) or SENTENCES.get(str(event["event"]))
    if sentence is not None:
        event["meaning"] = sentence
    return event
