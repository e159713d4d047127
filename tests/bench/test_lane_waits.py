"""A wait is from one acknowledgement to the next of a lane that goes on having something queued."""

import socket
from typing import cast

from aiokpl_metricsd.receiving.lane import Lane, LaneKeeper
from bench.lane_waits import LaneWaits


def test_only_what_a_lane_waited_with_something_queued_is_a_wait() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    waits = LaneWaits()
    with ours, theirs:
        lane = Lane(ours, bytearray(100), cast("LaneKeeper", None))
        waits.note(lane)
        theirs.send(b"queued after it was acknowledged")
        waits.note(lane)
        assert waits.waits == []
        theirs.send(b"queued beside the other")
        waits.note(lane)
        ours.recv(100)
        ours.recv(100)
        waits.note(lane)
        assert len(waits.waits) == 2
        waits.note(lane)
        assert len(waits.waits) == 2
    for wait in waits.waits:
        assert wait.wall_ms >= wait.running_ms
        assert wait.cpu_ms > 0.0
