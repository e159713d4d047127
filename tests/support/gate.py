"""A raw TCP server in front of a backend that gives no answer at all, in one of several ways, until opened.

Open, it passes the bytes of each connection on as they are, in both directions.
"""

import socket
import struct
from contextlib import suppress
from threading import Lock, Thread
from types import TracebackType
from typing import Self

# What a connection to a gate that is shut meets.
HANG, RESET, CLOSE, REFUSE = "hang", "reset", "close", "refuse"

_CHUNK_BYTES = 64 * 1024


class Gate:
    """A context manager; shut when it is entered.

    Args:
        port: the backend's, on the loopback.
        how: HANG accepts and says nothing, RESET breaks the connection off at the first bytes, CLOSE ends it
            at once, REFUSE listens to nobody.

    Attributes:
        met: connections that came while it was shut; none is seen where they are refused.
        passed: connections that came since it is open.
    """

    def __init__(self, port: int, how: str) -> None:
        self.met = 0
        self.passed = 0
        self._target = ("127.0.0.1", port)
        self._how = how
        self._is_open = False
        self._lock = Lock()
        self._connections: list[socket.socket] = []
        self._threads: list[Thread] = []
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A port that is bound and not listened to refuses, and is nobody else's.
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        if self._how != REFUSE:
            self._listen()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        # Wakes the thread that accepts; where none does, the socket is not listening.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._connections:
                _shut(connection)
        for thread in self._threads:
            thread.join()
        self._socket.close()
        for connection in self._connections:
            connection.close()

    def open(self) -> None:
        """Let everybody through from now on; who hangs goes on hanging."""
        self._is_open = True
        if self._how == REFUSE:
            self._listen()

    def _listen(self) -> None:
        self._socket.listen()
        self._start(Thread(target=self._accept))

    def _start(self, thread: Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
            if self._is_open:
                self.passed += 1
                self._pass_on(connection)
            else:
                self.met += 1
                self._turn_away(connection)

    def _turn_away(self, connection: socket.socket) -> None:
        if self._how == CLOSE:
            _shut(connection)
        elif self._how == RESET:
            self._start(Thread(target=_reset, args=(connection,)))

    def _pass_on(self, connection: socket.socket) -> None:
        onward = socket.create_connection(self._target)
        with self._lock:
            self._connections.append(onward)
        for source, target in ((connection, onward), (onward, connection)):
            self._start(Thread(target=_copy, args=(source, target)))


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            target.sendall(chunk)
    _shut(target)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.recv(_CHUNK_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


__all__ = ["CLOSE", "HANG", "REFUSE", "RESET", "Gate"]
