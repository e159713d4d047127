"""On a lane nothing is lost and nothing counted twice, however the daemon dies, refuses or is slow."""

import itertools
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiokpl_metrics_client import MetricsClient, State
from aiokpl_metrics_client import __version__ as version
from aiokpl_metrics_client import outbound as outbound_module
from aiokpl_metrics_client.transport import Transport
from aiokpl_metrics_protocol import AckFrame, encode
from tests.client.conftest import ClientMaker
from tests.client.door import Door
from tests.client.lane_door import LaneDoor
from tests.support.child import Nursery
from tests.support.polling import wait_for


def _wait_for_events(lanes: LaneDoor, count: int) -> None:
    def read() -> bool:
        lanes.read()
        return lanes.events() >= count

    wait_for(read, f"{count} events on lanes")
    assert lanes.events() == count


# ---- a lane that works


def test_the_lane_comes_first_and_begins_with_a_hello(
    door: Door, lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    client.put("n")
    _wait_for_events(lanes, 1)
    assert door.read() == 0
    (hello,) = lanes.hellos
    assert (hello.sequence, hello.software) == (1, f"aiokpl-metrics-client/{version}")
    assert hello.producer_id == lanes.frames[0].producer_id
    statistics = client.statistics()
    assert (statistics.transport, statistics.socket_path) == ("lane", str(lanes.path))


def test_flush_is_true_once_all_was_acknowledged(lanes: LaneDoor, make_client: ClientMaker) -> None:
    client = make_client()
    lanes.acknowledges = False
    with lanes.serving():
        client.put("n")
        assert not client.flush(0.2)
        statistics = client.statistics()
        assert (statistics.events_sent, statistics.events_unacknowledged) == (1, 1)
        assert statistics.bytes_unacknowledged == statistics.bytes_sent > 0
        assert statistics.state is State.CONNECTED
        lanes.acknowledges = True
        client.put("n")
        assert client.flush()
    statistics = client.statistics()
    assert (statistics.events_sent, statistics.events_unacknowledged, statistics.bytes_unacknowledged) == (
        2,
        0,
        0,
    )
    assert lanes.events() == 2
    lanes.check()


@pytest.mark.parametrize("journaled", [True, False])
def test_what_the_ack_says_of_the_journal_is_in_the_statistics(
    lanes: LaneDoor, make_client: ClientMaker, journaled: bool
) -> None:
    lanes.journaled = journaled
    client = make_client()
    client.put("n")
    with lanes.serving():
        assert client.flush()
    assert client.statistics().journaled is journaled


def test_a_lane_that_ends_while_nothing_waits_is_known_within_a_second_or_two(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    client.put("n")
    with lanes.serving():
        assert client.flush()
    assert client.statistics().state is State.CONNECTED
    lanes.reopen()
    wait_for(lambda: client.statistics().state is State.AWAY, "the client to notice")
    assert client.statistics().transport == ""
    client.put("n")
    with lanes.serving():
        assert client.flush(20.0)
    assert client.statistics().state is State.CONNECTED
    lanes.check()


def test_many_events_of_many_threads_arrive_once_each(lanes: LaneDoor, make_client: ClientMaker) -> None:
    client = make_client()

    def work() -> None:
        record = client.histogram("h").record
        for number in range(20_000):
            client.put("n", 1, zone=str(number % 50))
            record(number + 0.5)

    threads = [threading.Thread(target=work) for _ in range(3)]
    with lanes.serving():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert client.flush(30.0)
    assert lanes.events() == 120_000
    assert lanes.totals() == {"n": 60_000, "h": 3 * sum(number + 0.5 for number in range(20_000))}
    lanes.check()
    assert not lanes.repeats


def test_the_environment_turns_lanes_off(
    door: Door, lanes: LaneDoor, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOKPL_METRICSD_LANE", "0")
    client = make_client()
    client.put("n")
    assert client.flush()
    assert lanes.read() == 0
    assert door.read() == 1
    assert client.statistics().transport == "front_door"


# ---- the daemon dies, ends, is slow


@pytest.mark.parametrize("counted", [True, False], ids=["counted and not acknowledged", "not even read"])
def test_frames_that_a_dead_daemon_did_not_acknowledge_are_sent_again_as_they_were(
    lanes: LaneDoor, make_client: ClientMaker, counted: bool
) -> None:
    client = make_client()
    lanes.acknowledges = False
    for number in range(1, 6):
        client.put("n", number)
        assert not client.flush(0.02)
        lanes.read()
    taken = client.statistics().events_unacknowledged
    assert taken > 0
    if not counted:
        for number in range(6, 11):
            client.put("n", number)
            assert not client.flush(0.02)
    lanes.acknowledges = True
    lanes.reopen()
    with lanes.serving():
        client.put("n", 100)
        assert client.flush(20.0)
    lanes.check()
    assert lanes.totals()["n"] == sum(range(1, 6 if counted else 11)) + 100
    assert len(lanes.hellos) == 2
    assert client.statistics().events_unacknowledged == 0


def test_a_daemon_that_dies_again_and_again_loses_and_doubles_nothing(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    recorded = 0
    for generation in range(30):
        for step in range(3):
            for number in range(50):
                client.put(f"n{number % 7}", 1)
                recorded += 1
            client.flush(0.005)
            lanes.acknowledges = (generation + step) % 3 != 0
            lanes.read(most=1 + step)
        lanes.reopen()
        client.flush(0.005)
    lanes.acknowledges = True
    with lanes.serving():
        assert client.flush(20.0)
    assert sum(lanes.totals().values()) == recorded
    lanes.check()


def test_acks_of_a_daemon_that_died_with_unread_frames_count(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    client.put("n")
    _wait_for_events(lanes, 1)
    wait_for(lambda: client.statistics().events_unacknowledged == 0, "the ack")
    outbound = client._sender._outbound

    def die_with_unread_frames() -> bool:
        client.put("n")
        outbound.drain(all_of_it=True)
        assert not outbound.send()
        lanes.read()
        for _ in range(2):
            client.put("late")
            outbound.drain(all_of_it=True)
            outbound.transport.send(outbound._pending[0].data)
        lanes.die()
        assert outbound.progress.events_unacknowledged == 1
        outbound._receive()
        assert outbound.progress.events_unacknowledged == 0, "the ack came behind ECONNRESET"
        assert outbound.transport.way.value == "", "and after it the end"
        return True

    # The thread stands still: an ack comes, two frames stay unread, and then the daemon dies.
    assert client._sender._exclusive.run(die_with_unread_frames, 30.0, outbound.recount)


def test_a_daemon_that_ends_in_order_acknowledges_what_it_read_and_the_next_one_gets_the_rest(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    for number in range(20):
        client.put("n", number)
        client.flush(0.01)
        if number == 10:
            lanes.read()
            lanes.shut_down()
        if number == 15:
            lanes.open()
    with lanes.serving():
        assert client.flush(20.0)
    assert lanes.totals()["n"] == sum(range(20))
    assert lanes.repeats == []
    lanes.check()


def test_between_shutdown_and_close_the_client_waits_for_the_acks(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    lanes.acknowledges = False
    client.put("n")
    _wait_for_events(lanes, 1)
    lanes.lanes[0].connection.shutdown(socket.SHUT_RD)
    client.put("n")
    assert not client.flush(0.1)
    assert client.statistics().state is State.AWAY
    assert client.statistics().events_unacknowledged == 1
    assert not lanes.is_knocked_at(), "no other lane was opened"
    lanes.acknowledge()
    wait_for(lambda: client.statistics().events_unacknowledged == 0, "the ack")
    lanes.acknowledges = True
    lanes.reopen()
    with lanes.serving():
        assert client.flush(20.0)
    assert lanes.hellos[-1].sequence == 2
    lanes.check()


def test_a_slow_answer_never_leads_to_the_front_door(
    door: Door, lanes: LaneDoor, make_client: ClientMaker
) -> None:
    lanes.answers = False
    client = make_client()
    client.put("n")
    assert not client.flush(0.3)
    lanes.read()
    assert not client.flush(0.7)
    assert client.statistics().state is State.HELD_BACK
    assert door.read() == 0
    assert len(lanes.hellos) == 1
    lanes.acknowledge()
    with lanes.serving():
        assert client.flush(20.0)
    assert lanes.events() == 1
    assert door.read() == 0


def test_a_daemon_that_does_not_read_takes_no_more_than_the_bound(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    client.put("n")
    _wait_for_events(lanes, 1)
    lanes.acknowledges = False
    record = client.histogram("h").record
    recorded = 0

    def is_blocked() -> bool:
        nonlocal recorded
        for _ in range(2_000):
            record(recorded + 0.5)
            recorded += 1
        lanes.read()
        statistics = client.statistics()
        assert statistics.bytes_unacknowledged <= outbound_module.MAX_UNACKNOWLEDGED_BYTES
        return statistics.state is State.HELD_BACK

    wait_for(is_blocked, "the client to be held back")
    lanes.acknowledges = True
    lanes.acknowledge()
    with lanes.serving():
        assert client.flush(20.0)
    assert lanes.totals()["h"] == sum(number + 0.5 for number in range(recorded))
    lanes.check()


# ---- no lane


@pytest.mark.parametrize("kind", ["missing", "stale", "another kind"])
def test_where_no_lane_is_offered_the_front_door_is_used(
    door: Door, directory: Path, make_client: ClientMaker, kind: str
) -> None:
    path = directory / "metrics.sock.lane"
    if kind != "missing":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
            stale.bind(str(path))
    if kind == "another kind":
        path.unlink()
        path.write_text("")
    client = make_client()
    client.put("n")
    assert client.flush()
    assert door.read() == 1
    statistics = client.statistics()
    assert (statistics.transport, statistics.events_unacknowledged, statistics.journaled) == (
        "front_door",
        0,
        False,
    )


def test_a_daemon_that_comes_up_between_the_two_attempts_is_met_on_a_lane(
    door: Door, directory: Path, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[LaneDoor] = []
    open_front_door = Transport._open

    def come_up_first(transport: Transport, path: str) -> socket.socket:
        opened.append(LaneDoor(directory / "metrics.sock"))
        return open_front_door(transport, path)

    monkeypatch.setattr(Transport, "_open", come_up_first)
    client = make_client()
    client.put("n")
    (lanes,) = wait_for(lambda: opened, "the attempt at the front door")
    _wait_for_events(lanes, 1)
    assert door.read() == 0
    assert client.statistics().transport == "lane"
    lanes.close()


def test_a_refused_lane_leads_to_the_front_door(
    door: Door, lanes: LaneDoor, make_client: ClientMaker
) -> None:
    lanes.has_room = False
    client = make_client()
    client.put("n")
    with lanes.serving():
        assert client.flush()
        for _ in range(3):
            client.put("n")
            assert client.flush()
    door.read()
    assert door.events() == 4
    door.check()
    assert not lanes.frames


def test_a_lane_that_is_refused_before_the_hello_leads_to_the_front_door_as_well(
    door: Door,
    lanes: LaneDoor,
    make_client: ClientMaker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lanes.has_room = False

    class Refused(socket.socket):
        """Whose daemon is quicker than the client."""

        def connect(self, address: Any) -> None:  # noqa: ANN401 - as the original
            super().connect(address)
            if str(address).endswith(".lane"):
                lanes.read()

    monkeypatch.setattr(socket, "socket", Refused)
    client = make_client()
    client.put("n")
    assert client.flush()
    assert client.statistics().transport == "front_door"
    door.read()
    assert door.events() == 1
    assert not caplog.records


def test_with_nobody_there_the_daemon_is_away(directory: Path, make_client: ClientMaker) -> None:
    client = make_client()
    client.put("n")
    assert not client.flush(0.05)
    assert client.statistics().state is State.AWAY
    lanes = LaneDoor(directory / "metrics.sock")
    _wait_for_events(lanes, 1)
    lanes.close()


def test_a_frame_that_a_lane_has_taken_never_goes_through_the_front_door_and_is_given_up_in_the_end(
    lanes: LaneDoor, directory: Path, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    lanes.acknowledges = False
    client.put("taken")
    _wait_for_events(lanes, 1)
    lanes.close()
    door = Door(directory / "metrics.sock")
    client.put("later")
    assert not client.flush(0.5)
    statistics = client.statistics()
    assert (statistics.state, statistics.events_unacknowledged) == (State.AWAY, 1)
    assert "lane" in statistics.problem
    assert door.read() == 0
    monkeypatch.setattr(outbound_module, "NO_LANE_S", 0.0)
    door.wait_for_events(1)
    assert door.counts() == {("later", ()): 1}
    assert client.statistics().dropped == {"unacknowledged": 1}
    assert not client.flush(), "some were given up since the last flush that told"
    assert client.flush()
    assert door.frames[-1].totals.dropped == {}, "the daemon may have counted them"
    door.close()


def test_frames_that_wait_for_a_lane_go_on_the_one_that_comes_back(
    lanes: LaneDoor, directory: Path, make_client: ClientMaker
) -> None:
    client = make_client()
    lanes.acknowledges = False
    client.put("n")
    _wait_for_events(lanes, 1)
    lanes.close()
    door = Door(directory / "metrics.sock")
    client.put("n")
    assert not client.flush(0.3)
    lanes.acknowledges = True
    lanes.open()
    with lanes.serving():
        assert client.flush(20.0)
    assert lanes.events() == 2
    lanes.check()
    assert door.read() == 0
    assert client.statistics().dropped == {}
    door.close()


def test_a_lane_is_looked_for_once_the_front_door_has_failed(
    door: Door, directory: Path, make_client: ClientMaker
) -> None:
    client = make_client()
    client.put("n")
    assert client.flush()
    lanes = LaneDoor(directory / "metrics.sock")
    client.put("n")
    assert client.flush()
    assert lanes.read() == 0, "what the front door holds must not be overtaken"
    assert door.read() == 2
    # Nor by a client whose descriptor the application closed.
    connection = client._sender._outbound.transport._socket
    assert connection is not None
    os.close(connection.fileno())
    client.put("n")
    assert client.flush()
    assert door.read() == 1
    door.close()
    client.put("n")
    _wait_for_events(lanes, 1)
    assert lanes.hellos[0].sequence == 4
    lanes.close()
    door.open()


# ---- odd daemons, odd processes


@pytest.mark.parametrize(
    "message",
    [b"no frame", encode(AckFrame(0))[:-1], b"\x91\x01", b"\x92\x63\x00"],
    ids=["text", "torn", "tag", "another wire version"],
)
def test_a_daemon_that_answers_with_no_ack_is_left_and_tried_again(
    lanes: LaneDoor, make_client: ClientMaker, message: bytes
) -> None:
    lanes.answers = False
    client = make_client()
    client.put("n")
    wait_for(lanes.read, "the hello")
    lanes.lanes[0].connection.send(message)
    wait_for(lambda: lanes.read() and len(lanes.hellos) == 2, "another lane")
    assert "no daemon of this client's wire version" in client.statistics().problem
    lanes.answers = True
    lanes.acknowledge()
    _wait_for_events(lanes, 1)


def test_a_newer_daemon_that_says_more_in_its_acks_is_understood(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    lanes.answers = lanes.acknowledges = False
    client = make_client()
    client.put("n")
    wait_for(lanes.read, "the hello")
    newer = [5, 0, 0, True, 60.0, 7, "a field of a later version", {"and": ["another"]}]
    lanes.lanes[0].connection.send(msgspec.msgpack.encode(newer))
    _wait_for_events(lanes, 1)
    newer[1] = 1
    lanes.lanes[0].connection.send(msgspec.msgpack.encode(newer))
    wait_for(lambda: client.statistics().events_unacknowledged == 0, "its ack to count")
    assert client.statistics().journaled
    assert client.statistics().problem == ""


def test_acks_beyond_what_was_sent_and_odd_intervals_do_no_harm(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    client.put("n")
    _wait_for_events(lanes, 1)
    for interval_s in (float("nan"), float("inf"), -1.0, 0.0, 1e300):
        lanes.lanes[0].connection.send(encode(AckFrame(10**15, 3, True, interval_s, 1)))
        client.put("n")
        client.flush(0.05)
    _wait_for_events(lanes, 6)
    lanes.check()
    assert "refused 3 frames" in client.statistics().problem


def test_more_lanes_than_the_kernel_queues_is_no_reason_for_the_front_door(
    door: Door, directory: Path, make_client: ClientMaker
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(directory / "metrics.sock.lane"))
    listener.listen(0)
    others: list[socket.socket] = []
    for _ in itertools.count():
        other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        other.setblocking(False)
        others.append(other)
        try:
            other.connect(str(directory / "metrics.sock.lane"))
        except BlockingIOError:
            break
    client = make_client()
    client.put("n")
    assert not client.flush(0.3)
    assert client.statistics().state is State.HELD_BACK
    assert door.read() == 0
    for other in [*others, listener]:
        other.close()
    assert client.flush(20.0), "the socket is stale now, and the front door is there"
    assert door.read() == 1


def test_a_lane_s_recycled_descriptor_is_neither_read_nor_written(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    client = make_client()
    lanes.acknowledges = False
    client.put("n")
    _wait_for_events(lanes, 1)
    connection = client._sender._outbound.transport._socket
    assert connection is not None
    number = connection.fileno()
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(b"for the application")
    os.dup2(mine.fileno(), number)
    lanes.acknowledges = True
    client.put("n")
    with lanes.serving():
        assert client.flush(20.0)
    assert os.read(number, 100) == b"for the application"
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    lanes.check()
    for each in (mine, theirs):
        each.close()
    os.close(number)


HEAD = """
import os, sys, time
from aiokpl_metrics_client import MetricsClient
client = MetricsClient(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("client.put('n')", 0),
        ("client.put('n'); ok = client.flush(); os._exit(7 if ok else 1)", 7),
        ("client.put('n'); ok = client.close(); os._exit(7 if ok else 1)", 7),
        ("import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL); client.put('n')", 0),
    ],
    ids=["exit", "os._exit after flush", "os._exit after close", "SIGPIPE kills"],
)
def test_what_was_recorded_is_acknowledged_before_the_process_ends(
    lanes: LaneDoor, nursery: Nursery, body: str, status: int
) -> None:
    script = nursery.directory / "script.py"
    script.write_text(HEAD + body)
    with lanes.serving():
        child = nursery.start_python(str(script), str(lanes.path)[: -len(".lane")])
        assert child.wait() == status, child.stderr
    assert lanes.events() == 1
    lanes.check()


def test_after_a_fork_the_child_is_another_producer_on_a_lane_of_its_own(
    lanes: LaneDoor, nursery: Nursery
) -> None:
    script = nursery.directory / "script.py"
    script.write_text(
        HEAD
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
client.put("parent")
# Taken and not acknowledged: it is the parent's to send again.
deadline = time.monotonic() + 20
while not client.statistics().events_unacknowledged:
    assert time.monotonic() < deadline
    time.sleep(0.002)
pid = os.fork()
if pid == 0:
    assert client.statistics().events_unacknowledged == 0
    client.put("child")
    os._exit(0 if client.flush(20.0) else 1)
_, status = os.waitpid(pid, 0)
client.put("parent")
ok = client.flush(20.0)
os._exit(0 if ok and status == 0 else 1)
"""
    )
    lanes.acknowledges = False
    child = nursery.start_python(str(script), str(lanes.path)[: -len(".lane")])
    wait_for(
        lambda: lanes.read() and len({hello.producer_id for hello in lanes.hellos}) == 2, "the child's lane"
    )
    lanes.acknowledges = True
    with lanes.serving():
        lanes.acknowledge()
        assert child.wait() == 0, child.stderr
    assert lanes.totals() == {"parent": 2, "child": 1}
    assert len(lanes.hellos) == 2
    lanes.check()


def test_a_client_closed_with_frames_unacknowledged_says_so(
    lanes: LaneDoor, make_client: ClientMaker
) -> None:
    lanes.acknowledges = False
    client = make_client()
    client.put("n")
    _wait_for_events(lanes, 1)
    start = time.monotonic()
    assert not client.close(0.1)
    assert time.monotonic() - start < 5.0
    statistics = client.statistics()
    assert (statistics.events_unacknowledged, statistics.dropped, statistics.state) == (1, {}, State.CLOSED)


def test_a_client_let_go_waits_for_its_acks(lanes: LaneDoor) -> None:
    client = MetricsClient(str(lanes.path)[: -len(".lane")])
    client.put("n")
    sender, thread = client._sender, client._sender._background._thread
    assert thread is not None
    with lanes.serving():
        del client
        thread.join(20)
    assert not thread.is_alive()
    assert sender.statistics().events_unacknowledged == 0
    assert lanes.events() == 1


def test_a_daemon_that_takes_a_lane_and_never_answers_is_a_problem_until_it_does(
    lanes: LaneDoor, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes.answers = lanes.acknowledges = False
    client = make_client()
    client.put("n")
    wait_for(lanes.read, "the hello")
    assert not client.flush(0.0)
    assert client.statistics().problem == "", "it has some seconds"
    with monkeypatch.context() as patched:
        patched.setattr(outbound_module, "SILENCE_S", 0.0)
        assert not client.flush(0.0)
        assert "acknowledged nothing" in client.statistics().problem
    lanes.answers = lanes.acknowledges = True
    lanes.lanes[0].connection.send(encode(AckFrame(0, 0, True, 60.0, 7)))
    _wait_for_events(lanes, 1)
    wait_for(lambda: client.statistics().problem == "", "the problem to be over")
