"""What systemd is told, and that nothing else is ever held up by it."""

import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aiokpl_metricsd.notify import notify_ready, notify_reloading, notify_stopping


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory() as directory:
        yield Path(directory)


def listen(address: str) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(10)
    manager.bind(address)
    return manager


@pytest.mark.parametrize("is_abstract", [False, True])
def test_each_state_is_one_datagram_in_systemds_words(directory: Path, *, is_abstract: bool) -> None:
    path = str(directory / "notify")
    with listen(f"\0{path}" if is_abstract else path) as manager:
        environ = {"NOTIFY_SOCKET": f"@{path}" if is_abstract else path}
        notify_ready(environ)
        assert manager.recv(1_000) == b"READY=1"
        notify_reloading(environ)
        reloading, when = manager.recv(1_000).decode().split("\n")
        assert reloading == "RELOADING=1"
        assert when.removeprefix("MONOTONIC_USEC=").isdecimal()
        notify_stopping(environ)
        assert manager.recv(1_000) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@nobody", "a\0b", "x" * 200])
def test_where_nobody_listens_nothing_happens(address: str | None) -> None:
    notify_ready({} if address is None else {"NOTIFY_SOCKET": address})


def test_a_manager_that_reads_nothing_holds_nobody_up(directory: Path) -> None:
    with listen(str(directory / "notify")):
        for _ in range(2_000):
            notify_ready({"NOTIFY_SOCKET": str(directory / "notify")})
