"""Sinks of an operator's own making that behave badly. A configuration names them by import string."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokpl_metricsd.snapshot import MetricSnapshot


class Quiet:
    """Enters and leaves without a word."""

    async def __aenter__(self) -> Self:
        """Open nothing."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close nothing."""


class Failing(Quiet):
    """Raises at every export, each time in other words."""

    def __init__(self) -> None:
        self._exports = 0

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Raise."""
        self._exports += 1
        raise ValueError(f"no backend, for the time number {self._exports}")


class Hanging(Quiet):
    """Never comes back from an export. Only a second cancellation ends it, if it is `stubborn`."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self._stubborn = stubborn

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Wait for ever."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not self._stubborn:
                raise
            await asyncio.Event().wait()


class SlowToBuild(Quiet):
    """Takes long to be built, as one whose import is slow; `marker` appears when it begins."""

    def __init__(self, *, marker: str, seconds: float) -> None:
        Path(marker).touch()
        time.sleep(seconds)

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Take everything."""


class Witness(Quiet):
    """Takes everything, and writes down at each export and at its end which modules the process has."""

    def __init__(self, *, path: str) -> None:
        self._path = Path(path)

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Take everything."""
        self._write_down()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Write them down."""
        self._write_down()

    def _write_down(self) -> None:
        self._path.write_text("\n".join(sorted(sys.modules)), encoding="utf-8")


__all__ = ["Failing", "Hanging", "Quiet", "SlowToBuild", "Witness"]
