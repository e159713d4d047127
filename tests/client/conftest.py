"""Fixtures of the client's tests: a door, and clients that end with the test."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiokpl_metrics_client import MetricsClient
from tests.client.door import Door
from tests.client.lane_door import LaneDoor
from tests.support.child import Nursery

ClientMaker = Callable[..., MetricsClient]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="m-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    for name in ("SOCKET", "LANE", "DISABLED"):
        monkeypatch.delenv(f"AIOKPL_METRICSD_{name}", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(directory))


@pytest.fixture
def door(directory: Path) -> Iterator[Door]:
    """A bound socket."""
    door = Door(directory / "metrics.sock")
    yield door
    door.close()


@pytest.fixture
def lanes(directory: Path) -> Iterator[LaneDoor]:
    """A listening lane socket."""
    lanes = LaneDoor(directory / "metrics.sock")
    yield lanes
    lanes.close()


@pytest.fixture
def make_client(directory: Path) -> Iterator[ClientMaker]:
    """Make clients of the door."""
    clients: list[MetricsClient] = []

    def make(path: str | bytes | Path = directory / "metrics.sock", **options: Any) -> MetricsClient:  # noqa: ANN401 - what the constructor takes
        client = MetricsClient(path, **options)  # type: ignore[arg-type]
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close(timeout_s=0.0)


@pytest.fixture
def client(door: Door, make_client: ClientMaker) -> MetricsClient:
    """A client of the door."""
    return make_client()


@pytest.fixture
def nursery(directory: Path) -> Iterator[Nursery]:
    """Processes that end with the test."""
    nursery = Nursery(directory)
    yield nursery
    nursery.end()
