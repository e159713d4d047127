"""Whoever keeps a copy of `record` loses nothing in silence, and takes no memory without end."""

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aiokpl_metrics_client import MetricsClient, process, sender, stand_in
from aiokpl_metrics_client.sender import Sender
from tests.client.conftest import ClientMaker
from tests.client.door import Door
from tests.support.child import Nursery
from tests.support.polling import TIMEOUT_S, wait_for


def _buffered(owner: Sender) -> int:
    return sum(len(buffer.values) for buffer in owner.table.buffers())


def test_after_close_what_comes_by_a_copy_is_counted_until_the_copy_is_gone(
    door: Door, make_client: ClientMaker
) -> None:
    client = make_client()
    record = client.counter("n").record
    record(1)
    start = time.monotonic()
    assert client.close()
    assert time.monotonic() - start < 0.9 * sender._JOIN_TIMEOUT_S, "it does not wait for the copy"
    thread = client._sender._background._thread
    assert thread is not None
    for number in range(1, 4):
        for _ in range(100_000):
            record(1)
        wait_for(lambda: _buffered(client._sender) == 0, "all of them to be taken")
        assert client.flush()
        assert client.statistics().dropped == {"closed": number * 100_000}
    assert client.close()
    assert client.statistics().state == "closed"
    assert client._sender not in Sender.read_registered()
    del record
    wait_for(lambda: not thread.is_alive(), "the thread to end")
    assert client._sender not in process.read_members()
    door.read()
    assert door.events() == 1


def test_closed_without_a_copy_the_thread_has_ended_by_then(client: MetricsClient) -> None:
    counter = client.counter("n")
    client.put("n")
    assert client.close()
    thread = client._sender._background._thread
    assert thread is not None
    assert not thread.is_alive()
    counter.record(1)
    assert client.statistics().dropped == {"closed": 1}


def test_a_copy_goes_on_sending_when_its_client_was_let_go(
    door: Door, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_LINGER_S", 0.0)
    # Those of other tests may be here still.
    before, others = set(threading.enumerate()), set(Sender.read_registered())
    record = MetricsClient(door.path).counter("n").record
    gc.collect()
    (thread,) = set(threading.enumerate()) - before
    for number in range(1, 4):
        record(1)
        door.wait_for_events(number)
    (owner,) = set(Sender.read_registered()) - others
    assert _buffered(owner) == 0
    del record
    wait_for(lambda: not thread.is_alive(), "the thread to end")
    assert owner not in process.read_members()
    door.check()


_HEAD = """
import gc, os, sys, threading, time
from aiokpl_metrics_client import MetricsClient
client = MetricsClient(sys.argv[1])
sender = client._sender
def await_(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
def is_empty(): return not any(buffer.values for buffer in sender.table.buffers())
record = client.counter("n").record
"""

_FORKED = """
pid = os.fork()
if pid == 0:
    for _ in range(1000):
        record(1)
    await_(lambda: sender.statistics().events_sent + sum(sender.statistics().dropped.values()) == 1000)
    print(sender.statistics().dropped, flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("body", "printed", "events"),
    [
        ("client.close()\n" + _FORKED, "{'closed': 1000}\n", 0),
        ("record(1); del client; gc.collect()\n" + _FORKED, "{}\n", 1001),
        ("client.close(); record(1)", "", 0),
        ("del client; gc.collect(); record(1)", "", 1),
    ],
    ids=["a fork after close", "a fork after it was let go", "the end after close", "the end"],
)
def test_a_copy_outlives_forks_and_does_not_hold_up_the_end(
    door: Door, nursery: Nursery, body: str, printed: str, events: int
) -> None:
    child = nursery.start_python("-W", "ignore", "-c", _HEAD + body, str(door.path))
    assert child.wait() == 0, child.stderr
    assert child.stdout == printed
    door.read()
    assert door.events() == events


def test_closed_where_no_thread_could_start_a_copy_starts_it_once_it_can(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(stand_in, "_START_INTERVAL_S", 0.0)
    client = MetricsClient(directory / "nobody")
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        record: Callable[[float], object] = client.counter("n").record
        client.close(0.0)
        record(1)
        assert client._sender._background._thread is None

    deadline = time.monotonic() + TIMEOUT_S
    while not client._sender._background.is_running:
        assert time.monotonic() < deadline
        record(1)
    wait_for(lambda: _buffered(client._sender) == 0, "all to be counted")
    assert set(client.statistics().dropped) == {"closed"}
    del record
    wait_for(lambda: not client._sender._background.is_running, "the thread to end")
