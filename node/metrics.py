"""What `GET /metrics` says: Prometheus' text format, version 0.0.4
(prometheus.io/docs/instrumenting/exposition_formats). Institution ids and names of counters are all
that can become a label.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from node.methods.backend import NodeStatus, PeerStatus, Resources

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Sample = tuple[Mapping[str, str], int | float]


def render(status: NodeStatus, peers: Sequence[PeerStatus], resources: Resources) -> bytes:
    """The page."""
    info = {
        "institution": status.institution,
        "class": status.consensus_class,
        "version": status.version,
        "chain_id": status.chain_id,
    }
    lines = [
        *_family("info", "gauge", "Which node this is; always 1.", [(info, 1)]),
        *_one("height", "gauge", "Height of the newest applied block.", status.height),
        *_one(
            "head_time_seconds",
            "gauge",
            "Time of the newest applied block, seconds since 1970-01-01 UTC.",
            status.head_time_ms / 1000,
        ),
        *_one("view", "gauge", "View of the next height; above 0 a turn was lost.", status.view),
        *_one("syncing", "gauge", "1 while the node lacks decided blocks.", int(status.syncing)),
        *_one("abstaining", "gauge", "1 while the node does not vote.", int(status.abstaining)),
        *_one("pending_batches", "gauge", "Undecided batches.", status.pending_batches),
        *_one(
            "pending_transactions", "gauge", "Undecided transactions.", status.pending_transactions
        ),
        *_one("uptime_seconds", "gauge", "Since the node started.", status.uptime_ms / 1000),
        *_one("database_bytes", "gauge", "Size of the database.", resources.database_bytes),
        *_one("resident_memory_bytes", "gauge", "Resident memory.", resources.memory_bytes),
        *_family(
            "events_total",
            "counter",
            "What has happened since the start, by name; messages_dropped among them.",
            [({"event": name}, count) for name, count in status.counters.items()],
        ),
        *_of_peers(peers),
    ]
    return "".join(lines).encode()


def _of_peers(peers: Sequence[PeerStatus]) -> Iterable[str]:
    yield from _family(
        "peer_connected",
        "gauge",
        "1 while messages can be exchanged with this member.",
        [({"peer": peer.institution}, int(peer.connected)) for peer in peers],
    )
    yield from _family(
        "peer_paused",
        "gauge",
        "1 while this member is not read, because it sends more than its share.",
        [({"peer": peer.institution}, int(peer.paused)) for peer in peers],
    )
    yield from _family(
        "peer_waiting_messages",
        "gauge",
        "Messages of this member that wait for their turn.",
        [({"peer": peer.institution}, peer.waiting_messages) for peer in peers],
    )
    yield from _family(
        "peer_faults_total",
        "counter",
        "What this member did wrong or too much, by reason.",
        [
            ({"peer": peer.institution, "reason": reason}, count)
            for peer in peers
            for reason, count in peer.faults.items()
        ],
    )


def _one(name: str, kind: str, text: str, value: int | float) -> Iterable[str]:
    return _family(name, kind, text, [({}, value)])


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterable[str]:
    yield f"# HELP medpact_{name} {text}\n# TYPE medpact_{name} {kind}\n"
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"medpact_{name}{{{inner}}} {value}\n" if inner else f"medpact_{name} {value}\n"


def _escaped(label: str) -> str:
    return label.translate(_ESCAPES)
