"""A frame goes to the daemon's socket and to no other file, and nothing is ever raised."""

import errno
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from aiokpl_metrics_client.transport import Outcome, Transport
from aiokpl_metrics_protocol import ColumnsFrame, Totals, encode
from tests.client.door import Door

FRAME = encode(ColumnsFrame(1, 1, Totals(), []))


def _descriptor(transport: Transport) -> int:
    assert transport._socket is not None
    return transport._socket.fileno()


def test_a_frame_is_sent_as_one_datagram(door: Door) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    assert door.read() == 1
    assert transport.connected_path == str(door.path)
    transport.close()


def test_a_full_queue_says_so_and_wait_returns_once_it_is_read(door: Door) -> None:
    transport = Transport(str(door.path))
    sent = 0
    while transport.send(FRAME) is Outcome.SENT:
        sent += 1
    assert transport.send(FRAME) is Outcome.FULL
    door.read()
    assert transport.wait(10.0)
    assert transport.send(FRAME) is Outcome.SENT
    assert door.read() == 1
    assert len(door.frames) == sent + 1
    transport.close()


def test_nobody_there_is_away_with_the_path_in_the_problem(directory: Path) -> None:
    transport = Transport(str(directory / "nobody.sock"))
    assert transport.send(FRAME) is Outcome.AWAY
    assert "nobody.sock" in transport.problem
    assert not transport.wait(10.0)


@pytest.mark.parametrize("kind", ["file", "directory", "too long", "null byte", "stale", "stream"])
def test_whatever_is_at_the_path_is_away_and_never_raises(directory: Path, kind: str) -> None:
    path = directory / "metrics.sock"
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    text = str(path)
    if kind == "file":
        path.write_text("")
    elif kind == "directory":
        path.mkdir()
    elif kind == "too long":
        text = str(path) + "x" * 200
    elif kind == "null byte":
        text = str(path) + "\0"
    elif kind == "stale":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
            stale.bind(text)
    else:
        stream.bind(text)
        stream.listen()
    transport = Transport(text)
    assert transport.send(FRAME) is Outcome.AWAY
    assert transport.problem
    stream.close()


def test_a_daemon_that_ends_is_away_and_the_next_one_is_found(door: Door) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    door.close()
    assert transport.send(FRAME) is Outcome.AWAY
    assert transport.send(FRAME) is Outcome.AWAY
    door.open()
    assert transport.send(FRAME) is Outcome.SENT
    assert door.read() == 1
    transport.close()


def test_a_recycled_descriptor_is_neither_written_to_nor_closed(door: Door, directory: Path) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    number = _descriptor(transport)
    other_path = directory / "other"
    other = os.open(other_path, os.O_RDWR | os.O_CREAT)
    # The application closes all descriptors, and its next file has our number.
    os.dup2(other, number)
    assert transport.send(FRAME) is Outcome.SENT
    assert door.read() == 2
    assert other_path.read_bytes() == b""
    assert os.fstat(number).st_ino == other_path.stat().st_ino
    assert _descriptor(transport) != number
    os.close(number)
    os.close(other)
    transport.close()


def test_another_socket_with_our_number_gets_nothing(door: Door) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    number = _descriptor(transport)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    os.dup2(mine.fileno(), number)
    assert transport.send(FRAME) is Outcome.SENT
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    transport.close()
    # A copy of `mine` that is not ours is still there.
    assert os.fstat(number).st_ino == os.fstat(mine.fileno()).st_ino
    os.close(number)
    mine.close()
    theirs.close()


def test_a_closed_descriptor_is_replaced(door: Door) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    os.close(_descriptor(transport))
    assert transport.send(FRAME) is Outcome.SENT
    assert door.read() == 2
    transport.close()


def test_without_a_free_descriptor_the_daemon_is_away(door: Door) -> None:
    transport = Transport(str(door.path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        assert transport.send(FRAME) is Outcome.AWAY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.strerror(errno.EMFILE) in transport.problem
    assert transport.send(FRAME) is Outcome.SENT
    assert door.read() == 1
    transport.close()


def test_a_frame_larger_than_the_send_buffer_is_too_large(door: Door) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    assert transport._socket is not None
    transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    assert transport.send(b"x" * 60_000) is Outcome.TOO_LARGE
    assert transport.send(FRAME) is Outcome.SENT
    transport.close()


class Refusing:
    """A socket whose kernel is short of memory."""

    def __init__(self, connection: socket.socket | None, error: int) -> None:
        assert connection is not None
        self._connection = connection
        self._error = error

    def fileno(self) -> int:
        """Return the real one's."""
        return self._connection.fileno()

    def send(self, data: bytes, flags: int) -> int:
        """Refuse."""
        raise OSError(self._error, os.strerror(self._error))

    def close(self) -> None:
        """Close the real one."""
        self._connection.close()


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM, errno.EINTR, errno.EAGAIN])
def test_a_kernel_short_of_memory_is_a_full_socket_and_no_busy_loop(
    door: Door, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    transport._socket = Refusing(transport._socket, error)  # type: ignore[assignment]
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for _ in range(3):
        assert transport.send(FRAME) is Outcome.FULL
        assert transport.wait(0.1)
    assert pauses == [0.002, 0.003]
    transport.close()


@pytest.mark.parametrize("error", [errno.ECONNREFUSED, errno.EPIPE, errno.ENOTCONN, errno.EPERM, errno.EIO])
def test_any_other_error_is_a_daemon_that_is_away(door: Door, error: int) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    transport._socket = Refusing(transport._socket, error)  # type: ignore[assignment]
    assert transport.send(FRAME) is Outcome.AWAY
    assert os.strerror(error) in transport.problem
    assert transport.send(FRAME) is Outcome.SENT
    transport.close()


def test_without_unix_sockets_it_is_unsupported(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.AWAY
    assert not transport.supported


def test_the_socket_is_not_inherited(door: Door) -> None:
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    assert not os.get_inheritable(_descriptor(transport))
    transport.close()


# ---- where the socket is looked for


def _bind_at(path: Path, mode: int = 0o700) -> Door:
    path.parent.mkdir(parents=True)
    path.parent.chmod(mode)
    return Door(path)


def _connect() -> str | None:
    transport = Transport(None)
    transport.send(FRAME)
    transport.close()
    return transport.connected_path


def test_the_environment_names_the_only_path(
    door: Door, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fallback = _bind_at(directory / f"aiokpl-metricsd-{os.getuid()}" / "metrics.sock")
    monkeypatch.setenv("AIOKPL_METRICSD_SOCKET", str(door.path))
    assert _connect() == str(door.path)
    monkeypatch.setenv("AIOKPL_METRICSD_SOCKET", str(directory / "nobody"))
    assert _connect() is None
    fallback.close()


def test_the_runtime_directory_comes_before_the_temporary_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _bind_at(directory / f"aiokpl-metricsd-{os.getuid()}" / "metrics.sock")
    assert _connect() == str(own.path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory / "run"))
    assert _connect() == str(own.path)
    runtime = _bind_at(directory / "run" / "aiokpl-metricsd" / "metrics.sock", mode=0o755)
    assert _connect() == str(runtime.path)
    own.close()
    runtime.close()


def test_the_argument_wins_over_the_environment(
    door: Door, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOKPL_METRICSD_SOCKET", str(directory / "nobody"))
    transport = Transport(str(door.path))
    assert transport.send(FRAME) is Outcome.SENT
    transport.close()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o711, 0o777])
def test_a_directory_in_the_temporary_one_that_is_open_to_others_is_not_trusted(
    directory: Path, mode: int
) -> None:
    own = _bind_at(directory / f"aiokpl-metricsd-{os.getuid()}" / "metrics.sock", mode)
    assert _connect() is None
    own.path.parent.chmod(0o700)
    assert _connect() == str(own.path)
    own.close()


def test_a_link_to_a_directory_is_not_trusted(directory: Path) -> None:
    elsewhere = _bind_at(directory / "elsewhere" / "metrics.sock")
    (directory / f"aiokpl-metricsd-{os.getuid()}").symlink_to(elsewhere.path.parent)
    assert _connect() is None
    elsewhere.close()
