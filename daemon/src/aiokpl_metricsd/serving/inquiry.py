"""The ingest socket's path -> what the daemon there says of itself, asked over `admin.sock` beside it.

Only the standard library is used: who asks need not have installed what the daemon answers with.
"""

# pathlib knows no names that are bytes, and none of this needs it.
# ruff: noqa: PTH118, PTH119, PTH120, PTH116

import os
import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

import msgspec

from aiokpl_metrics_protocol import socket_candidates
from aiokpl_metrics_protocol.location import is_trusted_directory
from aiokpl_metricsd.serving.door import ADMIN_NAME
from aiokpl_metricsd.serving.statement import Statement, clean_text
from aiokpl_metricsd.sinks.loading import HTTP_EXTRA

# For each step: the first request of a daemon's life takes a quarter of a second.
_TIMEOUT_S = 10.0

_PATH = "/ledger"
_OTHER_VERSION = "the daemon is of another version, and its answer cannot be read"

_OK = 200
_NOT_FOUND = 404


class InquiryError(Exception):
    """Nobody answers, or not so; one line that says why."""


class _Origin(msgspec.Struct):
    """Of a statement, what tells whose it is."""

    socket: str = ""


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("admin", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def ask_ledger(socket_path: str | None = None) -> bytes:
    """Return the daemon's statement, as it answers.

    Args:
        socket_path: of the ingest socket; None looks where clients look, in the same order.

    Raises:
        InquiryError: there is no daemon, or it does not answer.
    """
    candidates = socket_candidates() if socket_path is None else (socket_path,)
    for candidate in candidates:
        if socket_path is None and not is_trusted_directory(candidate):
            continue
        admin_path = os.path.join(os.path.dirname(candidate), ADMIN_NAME)
        body = _ask(admin_path, candidate)
        if body is not None:
            _check_origin(admin_path, candidate, body)
            return body
    raise InquiryError(f"no daemon listens at {' or '.join(candidates)}")


def decode_statement(body: bytes) -> Statement:
    """Return the statement that a daemon has answered with.

    Raises:
        InquiryError: it is of another version.
    """
    try:
        return msgspec.json.decode(body, type=Statement)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InquiryError(f"{_OTHER_VERSION}: {error}; --json shows it as it is") from None


def _check_origin(admin_path: str, socket_path: str, body: bytes) -> None:
    """Make sure that the answer is of the daemon that was asked: two may share a directory.

    Raises:
        InquiryError: it is not.
    """
    try:
        origin = msgspec.json.decode(body, type=_Origin).socket
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InquiryError(f"{admin_path}: what answers is no daemon") from None
    # Directories may be mounted elsewhere here.
    names = {os.path.basename(socket_path), os.path.basename(os.path.realpath(socket_path))}
    if origin and os.path.basename(origin) not in {clean_text(name) for name in names}:
        raise InquiryError(
            f"{admin_path} belongs to the daemon of {origin}; give each daemon a directory of its own"
        )


def _ask(admin_path: str, socket_path: str) -> bytes | None:
    """Return the answer, or None where no daemon is."""
    connection = _UnixConnection(admin_path)
    try:
        connection.request("GET", _PATH)
        answer = connection.getresponse()
        body = answer.read()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        _check_absent(socket_path)
        return None
    except PermissionError:
        raise InquiryError(_describe_denial(admin_path)) from None
    except TimeoutError:
        raise InquiryError(f"{admin_path}: the daemon does not answer within {_TIMEOUT_S:g} s") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InquiryError(f"{admin_path}: no answer: {reason}") from None
    finally:
        connection.close()
    if answer.status == _NOT_FOUND:
        raise InquiryError(f"{admin_path}: the daemon has no {_PATH}; it is of an older version")
    if answer.status != _OK:
        raise InquiryError(f"{admin_path}: the daemon answers {answer.status} {answer.reason}")
    return body


def _check_absent(socket_path: str) -> None:
    """Make sure that no daemon is there that takes events without serving HTTP.

    Raises:
        InquiryError: one is, or that cannot be seen.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(socket_path)
        except PermissionError:
            raise InquiryError(f"{socket_path}: permission denied") from None
        except (OSError, ValueError):
            return
    raise InquiryError(
        f"{socket_path}: the daemon serves no {ADMIN_NAME}; install aiokpl-metricsd[{HTTP_EXTRA}] where it"
        " runs, or see its log for why"
    )


def _describe_denial(admin_path: str) -> str:
    owner = ""
    with suppress(OSError):
        owner = f" (uid {os.stat(admin_path).st_uid})"
    return f"{admin_path}: permission denied; ask as the user that the daemon runs as{owner}"


__all__ = ["InquiryError", "ask_ledger", "decode_statement"]
