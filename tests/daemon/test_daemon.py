"""The life of a daemon in one process: whatever fails on the way, nothing of it is left behind."""

import asyncio
import errno
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import pytest
from msgspec.structs import replace

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from aiokpl_metricsd.clock import Clock, SystemClock
from aiokpl_metricsd.config import Configuration
from aiokpl_metricsd.configuring.place import Place
from aiokpl_metricsd.daemon import Daemon
from aiokpl_metricsd.errors import ConfigurationError, StoreError
from aiokpl_metricsd.listener import listen
from aiokpl_metricsd.serving.door import Doors, open_doors
from aiokpl_metricsd.sinks.loading import SinkOptions
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from aiokpl_metricsd.state import State, open_state
from aiokpl_metricsd.storing.segment import Segment
from aiokpl_metricsd.testing import ScriptedSink
from tests.daemon.delivering.stored import until
from tests.daemon.outbox_steps import build_sealed
from tests.support.daemon import send_datagram


class Yard:
    """A daemon with two sinks over real sockets in a directory of its own."""

    def __init__(self, directory: Path, *sinks: object) -> None:
        self.path = directory / "metrics.sock"
        self.state_dir = directory / "state"
        self.sinks = sinks
        place = Place("sinks.toml", ("sinks",))
        self.configuration = Configuration(
            interval_s=60,
            state_dir=str(self.state_dir),
            shutdown_timeout_s=0.0,
            sinks={
                name: SinkOptions(
                    name=name,
                    type="t",
                    factory=lambda sink=sink: sink,
                    interval_s=60,
                    place=place.below(name),
                )
                for name, sink in zip("ab", sinks, strict=True)
            },
        )

    def build(self, clock: Clock | None = None) -> Daemon:
        """Bind the sockets and build the daemon."""
        self.listener = listen([str(self.path)], mode=0o600, group=None)
        self.doors: Doors = open_doors(str(self.path), None)
        self.state = self.open_state()
        return Daemon(self.configuration, self.listener, clock=clock, doors=self.doors, state=self.state)

    def open_state(self) -> State:
        """Open the state directory."""
        return open_state(str(self.state_dir), outbox_max_bytes=16 << 20)

    def close(self) -> None:
        """Give the sockets back."""
        self.doors.close()
        self.listener.close()


class Tomorrow(SystemClock):
    """A clock that is a day ahead."""

    def time(self) -> float:
        """Return the same time of the next day."""
        return super().time() + 86_400.0


@pytest.fixture
def make_yard() -> Iterator[Callable[..., Yard]]:
    """Make yards whose sockets go with the test."""
    yards: list[Yard] = []
    with TemporaryDirectory(prefix="metricsd-") as directory:

        def make(*sinks: object) -> Yard:
            yards.append(Yard(Path(directory), *sinks))
            return yards[-1]

        yield make
        for yard in yards:
            yard.close()


def fail_at(daemon: Daemon, yard: Yard, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one step of the daemon fail."""

    def fail(*_: object) -> None:
        raise ArithmeticError(step)

    start = daemon.delivery.start

    async def start_and_fail() -> None:
        await start()
        fail()

    if step == "doors":
        monkeypatch.setattr(yard.doors, "attach", fail)
    elif step == "delivery":
        monkeypatch.setattr(daemon.delivery, "start", start_and_fail)
    else:
        # No window can be frozen, in the end least of all.
        monkeypatch.setattr(daemon.aggregator, "freeze", fail)
        daemon.stop()


@pytest.mark.asyncio
@pytest.mark.parametrize("step", ["doors", "delivery", "end"])
async def test_a_step_that_fails_leaves_no_task_no_path_and_no_door_behind(
    make_yard: Callable[..., Yard],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    yard = make_yard(ScriptedSink(), ScriptedSink())
    daemon = yard.build()
    assert yard.path.with_name("admin.sock").exists()
    send_datagram(yard.path, encode(EventsFrame([MetricEvent("m", 1.0, 0.0)])))
    fail_at(daemon, yard, step, monkeypatch)
    before = asyncio.all_tasks()
    with caplog.at_level(logging.INFO), pytest.raises(ArithmeticError, match=step if step != "end" else None):
        await daemon.run()
    # The cancelled ones end in a turn of their own.
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert sorted(path.name for path in yard.path.parent.iterdir() if path.is_socket()) == []
    assert yard.listener.socket.fileno() == -1
    assert [door.socket.fileno() for door in yard.doors.opened] == [-1]
    assert daemon.ledger.events_decoded == 1
    assert caplog.messages[-1] == "stopped"
    await yard.open_state().close()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_under_way", [True, False], ids=["before", "at the end"])
async def test_a_disk_that_hangs_does_not_keep_the_daemon_from_ending(
    make_yard: Callable[..., Yard],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_under_way: bool,
) -> None:
    monkeypatch.setattr("aiokpl_metricsd.daemon._STORE_S", 0.05)
    monkeypatch.setattr("aiokpl_metricsd.state._CLOSE_S", 0.05)
    sinks = (ScriptedSink(), ScriptedSink())
    yard = make_yard(*sinks)
    daemon = yard.build()
    store: Any = yard.state.outbox._store
    checkpointer = daemon._checkpointer
    assert checkpointer is not None
    answers = Event()
    commit = store.commit

    def hang(*arguments: object) -> object:
        assert answers.wait(10.0)
        return commit(*arguments)

    with caplog.at_level(logging.INFO):
        running = asyncio.ensure_future(daemon.run())
        await until(lambda: "listening" in caplog.messages)
        send_datagram(yard.path, encode(EventsFrame([MetricEvent("m", 1.0, 0.0)])))
        await until(lambda: daemon.ledger.events_decoded)
        monkeypatch.setattr(store, "commit", hang)
        if is_under_way:
            checkpointer._failed = True
            await until(lambda: daemon.aggregator._sealed is not None)
        daemon.stop()
        await asyncio.wait_for(running, 10.0)
    message = "the state directory does not answer; the next daemon counts on from its journal"
    assert caplog.messages.count(message) == 1
    assert [sink.calls for sink in sinks] == [[], []]
    # The process would be gone by now, with the transaction or without.
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    answers.set()
    thread = yard.state.outbox._thread._thread
    assert thread is not None
    await until(lambda: not thread.is_alive())
    state = yard.open_state()
    events = [part.events for part in state.outbox.recovered.opened]
    stored = [window.counts for window in state.outbox.recovered.sinks["a"].windows]
    assert (events, stored) == (([1], []) if is_under_way else ([], [(1,)]))
    await state.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_journaled", [True, False], ids=["journaled", "in memory"])
async def test_what_the_last_checkpoint_cannot_store_is_sent_from_memory_only_if_no_journal_has_it(
    make_yard: Callable[..., Yard], monkeypatch: pytest.MonkeyPatch, is_journaled: bool
) -> None:
    sinks = (ScriptedSink(), ScriptedSink())
    yard = make_yard(*sinks)
    yard.configuration = replace(yard.configuration, shutdown_timeout_s=5.0)
    daemon = yard.build()
    running = asyncio.ensure_future(daemon.run())
    await until(lambda: daemon._receiver.loop is not None)

    def fail(*_: object) -> None:
        raise StoreError("disk I/O error")

    def fill_up(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(yard.state.outbox._store, "commit", fail)
        if not is_journaled:
            patch.setattr(Segment, "write", fill_up)
        send_datagram(yard.path, encode(EventsFrame([MetricEvent("m", 1.0, 0.0)])))
        await until(lambda: daemon.ledger.events_decoded)
        daemon.stop()
        await running
    ledger = daemon.delivery.ledgers["a"]
    assert [sink.names for sink in sinks] == ([[], []] if is_journaled else [["m"], ["m"]])
    assert (ledger.closed, ledger.delivered) == ((0, 0) if is_journaled else (1, 1))
    # The journal may have had the rest of it.
    assert ledger.ambiguous == ledger.delivered

    again = (ScriptedSink(), ScriptedSink())
    yard.close()
    following = make_yard(*again)
    following.configuration = replace(following.configuration, shutdown_timeout_s=5.0)
    daemon = following.build()
    daemon.stop()
    await daemon.run()
    assert [sink.names for sink in again] == ([["m"], ["m"]] if is_journaled else [[], []])
    ledger = daemon.delivery.ledgers["a"]
    assert (ledger.closed, ledger.delivered, ledger.dropped) == (1, 1, 0)


@pytest.mark.asyncio
async def test_what_a_checkpoint_has_that_cannot_be_read_costs_itself_alone(
    make_yard: Callable[..., Yard], caplog: pytest.LogCaptureFixture
) -> None:
    sinks = (ScriptedSink(), ScriptedSink())
    yard = make_yard(*sinks)
    state = yard.open_state()
    # Its ledger, its producers and its window are not what a daemon stores.
    await state.outbox.commit(build_sealed(1), (), {}, {})
    await state.close()
    yard.configuration = replace(yard.configuration, shutdown_timeout_s=5.0)
    daemon = yard.build()
    send_datagram(yard.path, encode(EventsFrame([MetricEvent("m", 1.0, 0.0)])))
    daemon.stop()
    await daemon.run()
    assert [
        message for message in caplog.messages if message.endswith(("begins anew", "begin anew", "lost"))
    ] == [
        "the checkpoint cannot be read: the ledger begins anew",
        "the checkpoint cannot be read: producers' numbers begin anew",
        "the checkpoint cannot be read: a window's events are lost",
    ]
    assert [sink.names for sink in sinks] == [["m"], ["m"]]
    assert daemon.ledger.balance_events(0) == 0


@pytest.mark.asyncio
async def test_what_was_open_is_delivered_at_once_where_the_clock_was_set_back_meanwhile(
    make_yard: Callable[..., Yard],
) -> None:
    yard = make_yard(ScriptedSink(), ScriptedSink())
    daemon = yard.build(Tomorrow())
    running = asyncio.ensure_future(daemon.run())
    await until(lambda: not (yard.state.outbox.failures or daemon._receiver.loop is None))
    send_datagram(yard.path, encode(EventsFrame([MetricEvent("m", 1.0, 0.0)])))
    await until(lambda: daemon.ledger.events_decoded)
    # As it is when the daemon is killed now.
    left = shutil.copytree(yard.state_dir, yard.state_dir.with_name("left"))
    daemon.stop()
    await running

    sinks = (ScriptedSink(), ScriptedSink())
    yard = make_yard(*sinks)
    yard.state_dir = left
    daemon = yard.build()
    running = asyncio.ensure_future(daemon.run())
    await until(lambda: all(sink.taken for sink in sinks))
    assert daemon.ledger.clock_steps == 1
    send_datagram(yard.path, encode(EventsFrame([MetricEvent("n", 1.0, 0.0)])))
    await until(lambda: daemon.aggregator.events_open)
    assert (daemon.ledger.events_late, daemon.ledger.events_early) == (0, 0)
    daemon.stop()
    await running


@pytest.mark.asyncio
async def test_two_sinks_that_want_the_same_page_are_refused(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard(PrometheusSink(), PrometheusSink())
    with pytest.raises(ConfigurationError) as caught:
        yard.build()
    assert str(caught.value) == "sinks.toml: [sinks] a and b: one page shows one sink; remove the others"
    await yard.state.close()


def test_without_a_state_directory_no_database_is_loaded() -> None:
    program = "import sys, aiokpl_metricsd.daemon; print('sqlite3' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "False"
