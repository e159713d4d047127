"""Lanes of the real daemon, used by a producer that is written by hand from the wire's document."""

import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import ROOT, Nursery, add_import_path
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.lane import Ack, LaneProducer, encode_columns
from tests.support.rows import check_balance, check_windows

SERIES = ("m", ())

# Dies by SIGKILL from its test, with frames queued and the answers to others unread.
PRODUCER = """
import sys
from tests.support.lane import LaneProducer
producer = LaneProducer(sys.argv[1], producer_id=int(sys.argv[2]))
producer.say_hello()
producer.read_ack()
for _ in range(20):
    producer.send()
print(20, flush=True)
sys.stdin.readline()
print(20 + producer.fill(padding=3_000), flush=True)
sys.stdin.readline()
"""

# A daemon that may have 140 files open.
FEW_DESCRIPTORS = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (140, 140))
os.execv(sys.executable, [sys.executable, "-m", "aiokpl_metricsd", *sys.argv[1:]])
"""


def start(nursery: Nursery, *, name: str = "daemon") -> DaemonProcess:
    """Start a daemon that offers lanes."""
    top = f'state_dir = "{nursery.directory}/state"'
    return DaemonProcess(nursery, top=top, interval_s=3600, grace_s=2, name=name).wait_until_listening()


def start_producer(daemon: DaemonProcess, number: int) -> subprocess.Popen[str]:
    """Start a producer in a process of its own."""
    command = [sys.executable, "-c", PRODUCER, str(daemon.socket_path), str(number)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)


def read_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def now() -> int:
    return int(time.time())


def test_without_a_state_directory_no_lane_is_offered(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    with pytest.raises(FileNotFoundError):
        LaneProducer(daemon.socket_path)
    assert daemon.stop() == 0


def test_events_on_lanes_and_on_the_front_door_are_counted_once_each_and_acknowledged(
    nursery: Nursery,
) -> None:
    daemon = start(nursery)
    with LaneProducer(daemon.socket_path, 1) as first, LaneProducer(daemon.socket_path, 2) as second:
        for producer in (first, second):
            producer.say_hello()
            hello = producer.read_ack()
            assert (hello.sequence, hello.refused, hello.interval_s) == (0, 0, 3600.0)
            assert hello.daemon_id > 0
        frames = [first.send(1.0, 2.0, second=now()) for _ in range(10)]
        second.send(5.0, second=now())
        send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("m", 7.0, 0.0)])))
        assert first.wait_until_acknowledged().sequence == 10
        assert second.wait_until_acknowledged().sequence == 1
    # The same producer comes back and sends again what it is not sure of.
    with LaneProducer(daemon.socket_path, 1, sequence=9, sent=16) as again:
        again.say_hello()
        assert again.read_ack().sequence == 10
        for frame in frames[8:]:
            again.socket.send(frame)
        again.sequence, again.sent = 11, 20
        again.send(second=now())
        assert again.wait_until_acknowledged().sequence == 11
    assert daemon.stop() == 0
    assert daemon.totals()[SERIES].count == 20 + 1 + 1 + 1
    check_balance(daemon.ledger)
    assert daemon.ledger.datagrams_repeated == 2
    assert daemon.ledger.events_missing == 0
    last = daemon.log[-1]
    assert last["lanes_accepted"] == 3 == sum(last["lanes_ended"].values())


def test_all_that_the_kernel_had_taken_of_killed_producers_is_counted(nursery: Nursery) -> None:
    daemon = start(nursery)
    with ExitStack() as stack:
        children = [stack.enter_context(start_producer(daemon, number)) for number in range(5)]
        counts = [read_line(child) for child in children]
        assert counts == ["20"] * 5
        # Nothing is read from here on until they are dead.
        daemon.send_signal(signal.SIGSTOP)
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        sent = sum(int(read_line(child)) for child in children)
        assert sent > 5 * (20 + 10)
        for child in children:
            child.kill()
            child.wait()
        daemon.send_signal(signal.SIGCONT)
    with LaneProducer(daemon.socket_path, 99) as other:
        # Lanes are read in turns: a round after the dead ones have begun, and one more.
        other.say_hello()
        other.read_ack()
    assert daemon.stop() == 0
    assert daemon.totals()[SERIES].count == sent
    assert daemon.ledger.events_missing == 0
    check_balance(daemon.ledger)


def test_sigterm_reads_what_is_queued_on_lanes_and_acknowledges_it(nursery: Nursery) -> None:
    daemon = start(nursery)
    with LaneProducer(daemon.socket_path, 1) as early, LaneProducer(daemon.socket_path, 2) as late:
        early.say_hello()
        early.read_ack()
        # Nothing is read from here on, so what is sent now is still queued when the signal is seen.
        daemon.send_signal(signal.SIGSTOP)
        sent = early.fill(padding=1_000, second=now())
        late.say_hello()
        sent += late.fill(second=now())
        with LaneProducer(daemon.socket_path, 3) as waiting:
            waiting.say_hello()
            waiting.send(second=now())
        daemon.send_signal(signal.SIGTERM)
        daemon.send_signal(signal.SIGCONT)
        assert daemon.wait() == 0
        assert early.read_acks()[-1].sequence == early.sequence - 1
        assert late.read_acks()[-1].sequence == late.sequence - 1
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            early.send()
    assert daemon.totals()[SERIES].count == sent + 1
    check_windows(daemon.rows())
    check_balance(daemon.ledger)
    assert list(nursery.directory.glob("daemon.sock*")) == [nursery.directory / "daemon.sock.lock"]


def test_sigterm_ends_the_lanes_before_the_sinks_have_their_time(nursery: Nursery) -> None:
    top = f'state_dir = "{nursery.directory}/state"\nshutdown_timeout_s = 300'
    hanging = '[sinks.hanging]\ntype = "tests.support.acme_sinks:Hanging"\n'
    daemon = DaemonProcess(nursery, hanging, top=top, interval_s=3600, environ=add_import_path(ROOT))
    daemon.wait_until_listening()
    with LaneProducer(daemon.socket_path) as producer:
        producer.say_hello()
        producer.read_ack()
        producer.send(second=now())
        producer.wait_until_acknowledged()
        daemon.send_signal(signal.SIGTERM)
        # Whatever it takes from here on would be counted by nobody, should its sender die with it.
        assert producer.receive() == b""
        with pytest.raises(BrokenPipeError):
            producer.send()
        assert daemon.is_running()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 1


def test_a_producer_finds_the_next_daemon_and_nothing_is_missing_there(nursery: Nursery) -> None:
    daemon = start(nursery)
    with LaneProducer(daemon.socket_path) as producer:
        producer.say_hello()
        producer.read_ack()
        for _ in range(3):
            producer.send(second=now())
        producer.wait_until_acknowledged()
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            producer.send()
        frame = encode_columns(7, 4, 3, [1.0], now())
        assert producer.read_acks() == []
    daemon = start(nursery, name="next")
    # It names its lowest frame that was not acknowledged, and sends the same bytes.
    with LaneProducer(daemon.socket_path, sequence=4) as producer:
        producer.say_hello()
        assert producer.read_ack().sequence == 3
        producer.socket.send(frame)
        assert producer.read_ack().sequence == 4
    assert daemon.stop() == 0
    # Of the killed one's events none had reached a sink.
    assert daemon.totals()[SERIES].count == 4
    assert daemon.ledger.events_missing == 0


def test_a_lane_past_the_limit_is_refused_and_the_daemon_goes_on(nursery: Nursery) -> None:
    command = (sys.executable, "-c", FEW_DESCRIPTORS)
    top = f'state_dir = "{nursery.directory}/state"'
    daemon = DaemonProcess(nursery, top=top, command=command).wait_until_listening()
    producers: list[LaneProducer] = []
    answer = Ack(1)
    try:
        for number in range(20):
            producers.append(LaneProducer(daemon.socket_path, number))
            with suppress(BrokenPipeError):  # it was refused before it said so
                producers[-1].say_hello()
            try:
                answer = producers[-1].read_ack()
            except ConnectionResetError:
                answer = producers[-1].read_ack()
            if answer.daemon_id == 0:
                break
        assert answer == Ack(0)
        # 140 less what is left to the rest are 12, of which one user may have 9.
        assert len(producers) == 10
        send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("m", 7.0, 0.0)])))
    finally:
        for producer in producers:
            producer.socket.close()
    assert daemon.stop() == 0
    assert daemon.log[-1]["lanes_refused"] == {"too_many_of_user": 1}
    assert daemon.count_events() == 1
