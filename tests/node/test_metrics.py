"""The page for Prometheus: every line is of its format, and no text breaks out of a label."""

import dataclasses
import re

from node.methods.backend import NodeStatus, PeerStatus, Resources
from node.metrics import render

STATUS = NodeStatus(
    institution="recorder-1",
    name="Hospital 1",
    institution_type="tertiary_hospital",
    consensus_class="recorder",
    version="1.2.3",
    chain_id="ab",
    height=7,
    head_hash="cd",
    head_time_ms=1_500,
    view=2,
    primary=None,
    peers=(),
    pending_batches=3,
    pending_transactions=4,
    syncing=True,
    abstaining=False,
    uptime_ms=2_000,
    counters={"messages_dropped": 5},
)
PEERS = (
    PeerStatus("auditor-1", "Authority", True, True, 6, 600, {"flood": 8, "malformed": 1}),
    PeerStatus("recorder-2", "Hospital 2", False, False, 0, 0, {}),
)
LABEL = r'[a-z_]+="(?:[^"\\\n]|\\.)*"'
SAMPLE = re.compile(rf"(medpact_[a-z_]+)(?:\{{{LABEL}(?:,{LABEL})*\}})? -?[0-9.]+")


def test_the_page_is_in_the_format_and_says_what_is() -> None:
    page = render(STATUS, PEERS, Resources(1_000, 2_000)).decode()
    assert page.endswith("\n")
    declared: list[str] = []
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            declared.append(line.split()[2])
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match[1] == declared[-1]
    assert len(declared) == len(set(declared))
    for line in (
        "medpact_height 7",
        "medpact_head_time_seconds 1.5",
        "medpact_view 2",
        "medpact_syncing 1",
        "medpact_resident_memory_bytes 1000",
        "medpact_database_bytes 2000",
        'medpact_events_total{event="messages_dropped"} 5',
        'medpact_peer_connected{peer="auditor-1"} 1',
        'medpact_peer_paused{peer="auditor-1"} 1',
        'medpact_peer_waiting_messages{peer="auditor-1"} 6',
        'medpact_peer_faults_total{peer="auditor-1",reason="flood"} 8',
        'medpact_peer_faults_total{peer="auditor-1",reason="malformed"} 1',
    ):
        assert line in page.splitlines()


def test_labels_are_escaped() -> None:
    odd = dataclasses.replace(STATUS, version='a"b\\c\nd')
    page = render(odd, (), Resources(0, 0)).decode()
    assert r'version="a\"b\\c\nd"' in page
