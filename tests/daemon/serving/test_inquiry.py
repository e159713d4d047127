"""Asking a daemon: where it is looked for, and what is said when it does not answer."""

import os
import socket
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aiokpl_metricsd.serving.inquiry import InquiryError, ask_ledger, decode_statement

OK = "200 OK"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short directory: pytest's own are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="metricsd-") as path:
        yield Path(path)


@contextmanager
def answering(directory: Path, body: bytes, status: str = OK) -> Generator[list[bytes]]:
    """Answer one request at the admin socket of a directory; what was asked is in the list."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(10.0)
        door.bind(str(directory / "admin.sock"))
        door.listen(1)

        def answer() -> None:
            connection, _ = door.accept()
            with connection:
                asked.append(connection.recv(4_096))
                head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body if status else body)

        thread = threading.Thread(target=answer)
        thread.start()
        yield asked
        thread.join()


def fail(socket_path: Path | str) -> str:
    with pytest.raises(InquiryError) as caught:
        ask_ledger(str(socket_path))
    return str(caught.value)


def test_the_daemon_is_asked_at_the_admin_socket_beside_its_own(directory: Path) -> None:
    body = b'{"socket":"/elsewhere/metrics.sock", "more": 1}\n'
    with answering(directory, body) as asked:
        assert ask_ledger(str(directory / "metrics.sock")) == body
    assert asked[0].startswith(b"GET /ledger HTTP/1.1\r\n")


def test_without_a_path_the_places_are_those_of_clients(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOKPL_METRICSD_SOCKET", str(directory / "other.sock"))
    with answering(directory, b"{}"):
        assert ask_ledger() == b"{}"


def test_a_directory_that_another_user_may_have_made_is_no_place(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIOKPL_METRICSD_SOCKET", raising=False)
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory / "runtime"))
    private = directory / f"aiokpl-metricsd-{os.getuid()}"
    private.mkdir()
    private.chmod(0o777)
    with pytest.raises(InquiryError, match=r"^no daemon listens at /run/\S+ or \S+ or \S+$"):
        ask_ledger()
    private.chmod(0o700)
    with answering(private, b"{}"):
        assert ask_ledger() == b"{}"


def test_where_no_daemon_is_that_is_said(directory: Path) -> None:
    path = directory / "metrics.sock"
    assert fail(path) == f"no daemon listens at {path}"
    # What a killed daemon leaves behind is no daemon.
    for name in ("admin.sock", "metrics.sock"):
        kind = socket.SOCK_STREAM if name == "admin.sock" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_UNIX, kind) as stale:
            stale.bind(str(directory / name))
    assert fail(path) == f"no daemon listens at {path}"
    assert fail(directory / "metrics.sock" / "below") == f"no daemon listens at {path / 'below'}"


def test_a_daemon_without_http_is_told_from_none(directory: Path) -> None:
    path = directory / "metrics.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ingest:
        ingest.bind(str(path))
        said = fail(path)
    assert said.startswith(f"{path}: the daemon serves no admin.sock; install aiokpl-metricsd[prometheus]")


def test_who_may_not_ask_is_told_who_may(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "admin.sock").touch()

    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    said = fail(directory / "metrics.sock")
    assert said == (
        f"{directory}/admin.sock: permission denied;"
        f" ask as the user that the daemon runs as (uid {os.getuid()})"
    )


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("404 Not Found", b"there are /metrics", "the daemon has no /ledger; it is of an older version"),
        ("503 Service Unavailable", b"", "the daemon answers 503 Service Unavailable"),
        (OK, b"no JSON", "what answers is no daemon"),
        (OK, b"\xff", "what answers is no daemon"),
        ("", b"SSH-2.0-OpenSSH\r\n", "no answer: SSH-2.0-OpenSSH"),
        ("", b"", "no answer: Remote end closed connection without response"),
    ],
)
def test_an_answer_that_is_none_is_one_line(directory: Path, status: str, body: bytes, words: str) -> None:
    with answering(directory, body, status):
        said = fail(directory / "metrics.sock")
    assert said.startswith(f"{directory}/admin.sock: ")
    assert words in said
    assert len(said.splitlines()) == 1


def test_the_answer_of_another_daemon_in_the_same_directory_is_not_taken(directory: Path) -> None:
    with answering(directory, b'{"socket":"/run/first.sock"}'):
        said = fail(directory / "second.sock")
    assert said.startswith(f"{directory}/admin.sock belongs to the daemon of /run/first.sock; ")


def test_a_path_that_no_socket_can_have_is_one_line(directory: Path) -> None:
    assert "no answer: AF_UNIX path too long" in fail(directory / ("x" * 200) / "metrics.sock")


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"version": 1}', b"\xff"])
def test_a_statement_of_another_version_is_an_error_that_says_what_to_do(body: bytes) -> None:
    with pytest.raises(InquiryError, match=r"of another version.*--json shows it"):
        decode_statement(body)
