"""Who may send: by user, by group, by supplementary group; who may not is named, once a minute."""

import logging
import os
import socket
import struct

import pytest

from aiokpl_metricsd.receiving.admission import (
    UNTOLD,
    Admission,
    Sender,
    build_admission,
    read_peer,
    read_sender,
)
from tests.daemon.test_clock import HandClock


@pytest.mark.parametrize(
    ("sender", "is_admitted"),
    [
        (Sender(1000, 5), True),
        (Sender(5, 100), True),
        (Sender(5, 6, (7, 200)), True),
        (Sender(5, 6, (7, 8)), False),
        (Sender(100, 1000), False),
        (Sender(0, 0), False),
        (Sender(UNTOLD, UNTOLD), False),
    ],
)
def test_a_user_or_one_of_its_groups_is_listed_or_it_may_not_send(
    sender: Sender, *, is_admitted: bool
) -> None:
    assert Admission({1000}, {100, 200}, lambda: 0.0).admits(sender) is is_admitted


def test_where_nothing_is_listed_there_is_nothing_to_ask() -> None:
    assert build_admission(None, None, lambda: 0.0) is None
    of_group = build_admission(None, (7,), lambda: 0.0)
    assert of_group is not None
    assert [of_group.admits(Sender(1, gid)) for gid in (7, 8)] == [True, False]


def test_who_is_refused_is_named_once_a_minute_with_the_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    admission = Admission({1}, (), clock.monotonic)
    for uid in range(2, 12):
        admission.admits(Sender(uid, uid))
    clock.pass_by(61.0)
    admission.admits(Sender(99, 98))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert fields == [{"uid": 2, "gid": 2, "times": 1}, {"uid": 99, "gid": 98, "times": 10}]


@pytest.mark.parametrize(
    "ancillary",
    [
        [],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=iii", 1, 2, 3))],
        [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, b"\0\0\0\0")],
        [(socket.IPPROTO_IP, socket.SCM_CREDENTIALS, struct.pack("=iII", 1, 2, 3))],
    ],
)
def test_without_credentials_nobody_has_sent_it(ancillary: list[tuple[int, int, bytes]]) -> None:
    assert read_sender(ancillary) == Sender(UNTOLD, UNTOLD)


def test_a_connection_tells_its_users_groups_as_well() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert read_peer(ours) == Sender(os.geteuid(), os.getegid(), tuple(os.getgroups()))
    assert read_peer(ours) == Sender(UNTOLD, UNTOLD)
