"""The health check: what it says of a daemon that is there, is not, or answers otherwise."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from aiokpl_metrics_protocol import socket_candidates
from aiokpl_metrics_protocol.location import ENVIRONMENT_VARIABLE
from aiokpl_metricsd import healthcheck
from aiokpl_metricsd.serving.door import ADMIN_NAME

COMMAND = (sys.executable, "-I", "-m", "aiokpl_metricsd.healthcheck")

MODULES = "import json, sys; import aiokpl_metricsd.healthcheck; print(json.dumps(sorted(sys.modules)))"
BARE = "import json, socket, sys; print(json.dumps(sorted(sys.modules)))"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short directory: pytest's own are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="metricsd-") as path:
        yield Path(path)


def serve_once(path: Path, answer: bytes) -> tuple[Thread, list[bytes]]:
    """Answer one connection at `admin.sock`. Return the thread, and where what was asked will be."""
    asked: list[bytes] = []
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(str(path))
    door.listen(1)

    def serve() -> None:
        with door, door.accept()[0] as connection:
            asked.append(connection.recv(4096))
            connection.sendall(answer)

    thread = Thread(target=serve)
    thread.start()
    return thread, asked


def test_it_is_healthy_while_somebody_listens_and_not_before_or_after(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = directory / "metrics.sock"
    assert healthcheck.main([str(path)]) == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(path))
        capsys.readouterr()
        assert healthcheck.main([str(path)]) == 0
        assert capsys.readouterr().err == ""
        # Nothing was sent: the daemon would count it.
        with pytest.raises(BlockingIOError):
            door.recv(1, socket.MSG_DONTWAIT)
    # As a killed daemon leaves it.
    assert healthcheck.main([str(path)]) == 1
    assert capsys.readouterr().err == f"{path}: Connection refused\n"


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1, "/readyz: HTTP/1.1 503 Service Unavailable\n"),
        (b"HTTP/1.1 2000 Odd\r\n\r\n", 1, "/readyz: HTTP/1.1 2000 Odd\n"),
        (b"", 1, "/readyz: no answer\n"),
    ],
)
def test_it_asks_the_admin_socket_beside_the_ingest_socket(
    directory: Path, answer: bytes, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    thread, asked = serve_once(directory / ADMIN_NAME, answer)
    assert healthcheck.main([str(directory / "metrics.sock"), "--ask", "/readyz"]) == status
    thread.join()
    assert asked[0].startswith(b"GET /readyz HTTP/1.1\r\n")
    assert capsys.readouterr().err == said


def test_without_an_admin_socket_it_says_so(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main(["--ask", "/healthz", str(directory / "metrics.sock")]) == 1
    assert capsys.readouterr().err == f"{directory / ADMIN_NAME}: No such file or directory\n"


def test_a_daemon_that_does_not_answer_is_not_waited_for_long(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(healthcheck, "_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(directory / ADMIN_NAME))
        door.listen(1)
        assert healthcheck.main([str(directory / "metrics.sock"), "--ask", "/healthz"]) == 1
    assert capsys.readouterr().err == f"{directory / ADMIN_NAME}: timed out\n"


@pytest.mark.parametrize("arguments", [["--ask"], ["a", "b"], ["--help"], ["--ask", ""]])
def test_a_command_line_that_is_none_is_told_how_one_looks(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert healthcheck.main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_its_places_are_those_of_the_protocol_and_the_door(directory: Path) -> None:
    assert healthcheck.ADMIN_NAME == ADMIN_NAME
    plain = {key: value for key, value in os.environ.items() if key != ENVIRONMENT_VARIABLE}
    show = "from aiokpl_metricsd import healthcheck; print(healthcheck.SOCKET)"
    for environ, expected in (
        (plain, socket_candidates({})[0]),
        ({**plain, ENVIRONMENT_VARIABLE: "/else/where.sock"}, "/else/where.sock"),
    ):
        shown = subprocess.run(
            [sys.executable, "-c", show], env=environ, capture_output=True, text=True, check=True
        )
        assert shown.stdout.strip() == expected


def test_it_imports_nothing_but_socket_and_its_package() -> None:
    found, bare = (
        set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
        for code in (MODULES, BARE)
    )
    assert found - bare == {"aiokpl_metricsd", "aiokpl_metricsd.healthcheck"}


def test_as_a_command_it_ends_with_the_status_and_one_line(directory: Path) -> None:
    path = directory / "metrics.sock"
    done = subprocess.run([*COMMAND, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{path}: No such file or directory\n")
