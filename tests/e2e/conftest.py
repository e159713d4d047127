"""Fixtures of the end-to-end tests: real processes, real sockets, real signals."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.child import Nursery


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short directory: pytest's own are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="metricsd-") as path:
        yield Path(path)


@pytest.fixture
def nursery(directory: Path) -> Iterator[Nursery]:
    """Starts processes, and ends whatever still runs after the test."""
    nursery = Nursery(directory)
    try:
        yield nursery
    finally:
        nursery.end()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AIOKPL_")]:
        monkeypatch.delenv(name)
