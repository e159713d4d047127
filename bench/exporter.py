"""The daemon with a line on which it is told to export windows, and says what that took.

Run as `python -m bench.exporter CONTROL --config FILE` it is the real process, with a heartbeat on its loop
and a connection to the Unix socket CONTROL beside it. Windows do not come over the ingest socket but are
given to the delivery, so that what is measured is selection, delivery and sinks alone. Nothing that the
daemon itself would not load is imported, or its memory would say too much.
"""

import asyncio
import gc
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from bench.heartbeat import Heartbeat

if TYPE_CHECKING:
    from aiokpl_metricsd.delivery import Delivery
    from aiokpl_metricsd.snapshot import MetricSnapshot
    from bench.window import WindowBuilder

_POLL_S = 0.005
_SETTLE_S = 0.02


class Order(msgspec.Struct):
    """What the daemon is to do before it answers.

    Attributes:
        what: "build" a window, "export" it, or only "look".
        series: of the window.
        plain: all its series are counters.
    """

    what: str
    series: int = 0
    plain: bool = False


class Report(msgspec.Struct):
    """What went on since the last report.

    Attributes:
        cpu_s: CPU time of the process, of all its threads.
        beats: how often the heartbeat woke.
        stall_wall_ms: the longest gap between two of them.
        stall_cpu_ms: the most CPU time that the loop's thread used between two.
        modules: what is loaded now, but the modules of this benchmark.
        failures: the sinks with attempts that did not wholly succeed, since the start, in words.
        error: why the figures say nothing; "" where they do.
    """

    cpu_s: float
    beats: int
    stall_wall_ms: float
    stall_cpu_ms: float
    modules: list[str]
    failures: list[str]
    error: str


class _Observer:
    """Adds up what goes on between two reports."""

    def __init__(self, heartbeat: Heartbeat, delivery: "Delivery") -> None:
        self._heartbeat = heartbeat
        self._delivery = delivery
        self._cpu_s = 0.0
        self._beats = 0

    def report(self, error: str = "") -> Report:
        gaps = self._heartbeat.gaps
        report = Report(
            time.process_time() - self._cpu_s,
            self._heartbeat.count - self._beats,
            max((gap.wall_ms for gap in gaps), default=0.0),
            max((gap.cpu_ms for gap in gaps), default=0.0),
            [name for name in sys.modules if name.partition(".")[0] != "bench"],
            [
                f"{name}: {ledger.failures} attempts failed, at last: {ledger.last_error}"
                for name, ledger in self._delivery.ledgers.items()
                if ledger.failures
            ],
            error,
        )
        gaps.clear()
        self._beats, self._cpu_s = self._heartbeat.count, time.process_time()
        return report


async def _obey(delivery: "Delivery", heartbeat: Heartbeat, control_path: str) -> None:
    """Do what is ordered, one line after the other."""
    reader, writer = await asyncio.open_unix_connection(control_path)
    observer = _Observer(heartbeat, delivery)
    builder = None
    window: list[MetricSnapshot] = []
    while line := await reader.readline():
        order = msgspec.json.decode(line, type=Order)
        error = ""
        if order.what == "build":
            builder = builder or _import_builder()
            window = builder.build(order.series, plain=order.plain)
            # In the daemon, what windows share with their series is hidden from the collector.
            gc.freeze()
            # The heartbeat comes late once more, for that.
            await asyncio.sleep(_SETTLE_S)
        elif order.what == "export":
            error = await _export(delivery, window)
            window = []
        writer.write(msgspec.json.encode(observer.report(error)) + b"\n")


def _import_builder() -> "WindowBuilder":
    from bench.window import WindowBuilder

    return WindowBuilder()


async def _export(delivery: "Delivery", window: "list[MetricSnapshot]") -> str:
    """Give a window to every sink, wait until none has it any more, and say what was not delivered."""
    await delivery.hand_over([(window, 0.0)])
    while any(delivery.queue_windows.values()):  # noqa: ASYNC110 - the delivery tells nobody
        await asyncio.sleep(_POLL_S)
    for name, ledger in delivery.ledgers.items():
        if ledger.delivered != ledger.closed:
            return f"{name}: {ledger.delivered} of {ledger.closed} series delivered; {ledger.last_error}"
    return ""


def run_daemon(configuration_path: str, control_path: str) -> int:
    """Run the process until SIGTERM: the place to adapt."""
    from aiokpl_metricsd import daemon
    from aiokpl_metricsd.process import serve

    class ObedientDaemon(daemon.Daemon):
        """The daemon with a heartbeat and a line for orders beside it."""

        async def run(self) -> None:
            """Serve until told to stop."""
            heartbeat = Heartbeat()
            tasks = (
                asyncio.create_task(heartbeat.run()),
                asyncio.create_task(_obey(self.delivery, heartbeat, control_path)),
            )
            try:
                await super().run()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    # Everything else, as the loop and the garbage collector's settings, is as in the real process.
    daemon.__dict__["Daemon"] = ObedientDaemon
    return serve(configuration_path)


def main() -> None:
    """Run the daemon that does what it is told."""
    control_path, _, configuration_path = sys.argv[1:]
    sys.exit(run_daemon(configuration_path, control_path))


__all__ = ["Order", "Report", "main", "run_daemon"]

if __name__ == "__main__":
    main()
