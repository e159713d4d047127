"""The life of a daemon in one process: whatever fails on the way, nothing of it is left behind."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from aiokpl_metricsd.config import Configuration
from aiokpl_metricsd.configuring.place import Place
from aiokpl_metricsd.daemon import Daemon
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.listener import listen
from aiokpl_metricsd.serving.door import Doors, open_doors
from aiokpl_metricsd.sinks.loading import SinkOptions
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from aiokpl_metricsd.state import State, open_state
from aiokpl_metricsd.testing import ScriptedSink
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

    def build(self) -> Daemon:
        """Bind the sockets and build the daemon."""
        self.listener = listen([str(self.path)], mode=0o600, group=None)
        self.doors: Doors = open_doors(str(self.path), None)
        self.state = self.open_state()
        return Daemon(self.configuration, self.listener, doors=self.doors, state=self.state)

    def open_state(self) -> State:
        """Open the state directory."""
        return open_state(str(self.state_dir), outbox_max_bytes=16 << 20)

    def close(self) -> None:
        """Give the sockets back."""
        self.doors.close()
        self.listener.close()


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
async def test_two_sinks_that_want_the_same_page_are_refused(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard(PrometheusSink(), PrometheusSink())
    with pytest.raises(ConfigurationError) as caught:
        yard.build()
    assert str(caught.value) == "sinks.toml: [sinks] a and b: one page shows one sink; remove the others"
    await yard.state.close()
