"""The port's value types."""

import dataclasses

import pytest

from node.framing import FRAME_BYTES_GATHERED, FRAME_MESSAGES_MAX
from node.transport import Member, TransportLimits
from node.wire import (
    GOSSIP_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    REQUEST_BYTES_MAX,
    RESPONSE_BYTES_MAX,
)


def test_the_default_limits_fit_each_other() -> None:
    limits = TransportLimits()
    overhead = 4 * FRAME_MESSAGES_MAX
    assert limits.frame_bytes_max >= max(limits.message_bytes_max, FRAME_BYTES_GATHERED) + overhead
    assert limits.queue_bytes_max >= limits.message_bytes_max
    assert limits.buffered_bytes_max >= limits.message_bytes_max
    assert 2 * limits.heartbeat_ms < limits.heartbeat_timeout_ms
    assert limits.redial_ms_min < limits.redial_ms_max
    assert all(value > 0 for value in dataclasses.asdict(limits).values())


def test_nothing_is_taken_that_would_not_be_decoded() -> None:
    limits = TransportLimits()
    assert limits.message_bytes_max == MESSAGE_BYTES_MAX
    assert limits.gossip_bytes_max == GOSSIP_BYTES_MAX
    assert limits.request_bytes_max == REQUEST_BYTES_MAX
    assert limits.response_bytes_max == RESPONSE_BYTES_MAX


def test_members_and_limits_cannot_change() -> None:
    member = Member("recorder-1", bytes(32), "127.0.0.1:7600")
    with pytest.raises(dataclasses.FrozenInstanceError):
        member.address = "127.0.0.1:1"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        TransportLimits().streams_max = 0  # type: ignore[misc]
