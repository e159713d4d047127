"""A sender of noise: what `tests.protocol.fuzz` makes, in blocking sends, so that every datagram arrives.

Run as `python -m tests.support.hostility SOCKET SEED COUNT`; it prints, now and then, how many datagrams
the kernel took.
"""

import socket
import sys

from tests.protocol.fuzz import random_datagrams

# The daemon is never that long away from its socket.
_TIMEOUT_S = 60.0
_REPORT_EVERY = 10_000


def main(socket_path: str, seed: int, count: int) -> None:
    """Send `count` datagrams and say how far it is."""
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.settimeout(_TIMEOUT_S)
        door.connect(socket_path)
        for datagram in random_datagrams(seed, count):
            assert door.send(datagram) == len(datagram)
            sent += 1
            if sent % _REPORT_EVERY == 0:
                report(sent)
    report(sent)


def report(sent: int) -> None:
    """Print a line."""
    sys.stdout.write(f"{sent}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))


__all__ = ["main", "report"]
