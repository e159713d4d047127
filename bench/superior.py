"""The other end of the line to `bench.exporter`: starts it, tells it what to do, reads its reports."""

import http.client
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bench.exporter import Order, Report
from bench.samples import MeasurementError
from bench.service import Service

# Idle is who uses less than this part of a processor, the heartbeat included, for so long.
_IDLE_SHARE = 0.1
_IDLE_S = 0.5
_MAX_START_S = 20.0

# A report comes when all is delivered; it never takes so long.
_PATIENCE_S = 240.0

# What Prometheus 2.53 sends (scrape/scrape.go, read 2026-11), without protobuf.
_SCRAPE_HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}


class Superior:
    """One daemon that does what it is told.

    Args:
        directory: of its own.
        tables: its sinks, in TOML.
    """

    def __init__(self, directory: Path, tables: str) -> None:
        """Prepare the line."""
        path = str(directory / "control")
        self._admin_path = str(directory / "admin.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(_PATIENCE_S)
        self._listener.bind(path)
        self._listener.listen(1)
        self._service = Service(directory, sink=tables, command=("bench.exporter", path))
        self._beat_s = 0.0

    def __enter__(self) -> Self:
        """Start the daemon and wait for its call.

        Raises:
            MeasurementError: it does not start.
        """
        try:
            self._service.start()
            self._line, _ = self._listener.accept()
        except BaseException:
            self._service.end()
            self._listener.close()
            raise
        self._line.settimeout(_PATIENCE_S)
        self._reports = self._line.makefile("rb")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """End the daemon, whatever happened."""
        self._reports.close()
        self._line.close()
        self._listener.close()
        self._service.end()

    def wait_until_idle(self) -> Report:
        """Wait until every sink has come up; report what that took, from the start of the process.

        Raises:
            MeasurementError: the daemon does not come to rest.
        """
        end_s = time.monotonic() + _MAX_START_S
        reports = [self._look()]
        while time.monotonic() < end_s:
            time.sleep(_IDLE_S)
            last = self._look()
            if last.cpu_s < _IDLE_SHARE * _IDLE_S:
                self._beat_s = last.cpu_s / max(1, last.beats)
                return _join([*map(self._deduct, reports), self._deduct(last)])
            reports.append(last)
        raise MeasurementError("the daemon does not come to rest")

    def read_rss_mib(self) -> float:
        """Return the daemon's resident memory."""
        return self._service.read_memory_mib()[0]

    def export(self, series: int, *, plain: bool) -> Report:
        """Have a window made and exported, then one of a single series, and report what the two exports took.

        Until the second one the daemon may hold on to the first, and let it go all at once.

        Raises:
            MeasurementError: a sink could not deliver all of it.
        """
        reports: list[Report] = []
        for each in (series, 1):
            self._order(Order("build", each, plain))
            reports.append(self._deduct(self._order(Order("export"))))
        return _join(reports)

    def scrape(self) -> Report:
        """Read the page, and report what it took the daemon.

        Raises:
            MeasurementError: there is none.
        """
        self._look()
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(self._admin_path)
            connection.request("GET", "/metrics", headers=_SCRAPE_HEADERS)
            response = connection.getresponse()
            page = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise MeasurementError(f"/metrics: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK or not page:
            raise MeasurementError(f"/metrics: status {response.status}, {len(page)} bytes")
        return self._deduct(self._look())

    def finish(self) -> float:
        """End the daemon with SIGTERM, and return its highest memory in MiB.

        Raises:
            MeasurementError: it did not end in order.
        """
        _, peak_mib = self._service.read_memory_mib()
        self._service.finish()
        return peak_mib

    def _look(self) -> Report:
        return self._order(Order("look"))

    def _order(self, order: Order) -> Report:
        try:
            self._line.sendall(msgspec.json.encode(order) + b"\n")
            line = self._reports.readline()
        except OSError as error:
            raise MeasurementError(f"{order.what}: {error}") from error
        if not line:
            raise MeasurementError(f"{order.what}: the daemon has ended")
        report = msgspec.json.decode(line, type=Report)
        if report.error:
            raise MeasurementError(report.error)
        return report

    def _deduct(self, report: Report) -> Report:
        """Take the heartbeat's own cost out of a report."""
        cpu_s = max(0.0, report.cpu_s - report.beats * self._beat_s)
        return msgspec.structs.replace(report, cpu_s=cpu_s)


def _join(reports: Sequence[Report]) -> Report:
    """Return what went on in all of the time."""
    return msgspec.structs.replace(
        reports[-1],
        cpu_s=sum(each.cpu_s for each in reports),
        beats=sum(each.beats for each in reports),
        stall_wall_ms=max(each.stall_wall_ms for each in reports),
        stall_cpu_ms=max(each.stall_cpu_ms for each in reports),
    )


__all__ = ["Superior"]
