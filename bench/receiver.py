"""Datagrams -> nowhere. Stands in for a daemon, so that senders meet a socket that is always drained.

Run as `python -m bench.receiver DIRECTORY`: it binds `DIRECTORY/drain.sock` and a UDP port of the loopback
interface, prints the port, and reads both until it is ended.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.process import ROOT, build_environment, stop

SOCKET_NAME = "drain.sock"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the receiver listens."""

    socket_path: str
    udp_port: int


@contextmanager
def start_receiver(directory: Path) -> Generator[Address]:
    """Run a receiver in a process of its own."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.receiver", str(directory)],
        cwd=ROOT,
        env=build_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        yield Address(str(directory / SOCKET_NAME), int(child.stdout.readline()))
    finally:
        stop(child)


def _drain(receiver: socket.socket) -> None:
    buffer = bytearray(1 << 17)
    receive = receiver.recv_into
    while True:
        receive(buffer)


def main() -> None:
    """Bind, say where, and drain for ever."""
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unix.bind(str(Path(sys.argv[1]) / SOCKET_NAME))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    threading.Thread(target=_drain, args=(unix,), daemon=True).start()
    print(udp.getsockname()[1], flush=True)
    _drain(udp)


__all__ = ["SOCKET_NAME", "Address", "start_receiver"]

if __name__ == "__main__":
    main()
