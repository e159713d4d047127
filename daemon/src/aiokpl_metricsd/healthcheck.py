"""Exit status of a probe: does the daemon's socket take datagrams, or what does its HTTP answer?

    python3 -m aiokpl_metricsd.healthcheck [SOCKET] [--ask PATH]

0 is yes, 1 is no, and one line on standard error says why. Without `--ask` it connects to the socket of the
front door, which costs the daemon nothing; with it, `admin.sock` beside that one is asked, as `/healthz` or
`/readyz`, whose first request has the daemon import what serves HTTP. A container runs this every few
seconds, so it imports `socket` and nothing else, and takes little more than an interpreter that does nothing.
"""

import os
import socket
import sys

__all__ = ["ask", "connect", "main"]

# The variable and the first place of `aiokpl_metrics_protocol.location`, and the name in `serving.door`; to
# import those would take ten times as long. A test compares them.
SOCKET = os.environ.get("AIOKPL_METRICSD_SOCKET") or "/run/aiokpl-metricsd/metrics.sock"
ADMIN_NAME = "admin.sock"

# Less than a probe's own time, so that its reason is told.
_TIMEOUT_S = 4.0

_USAGE = "usage: python3 -m aiokpl_metricsd.healthcheck [SOCKET] [--ask PATH]"


def main(arguments: list[str]) -> int:
    """Return the exit status for a command line."""
    rest = list(arguments)
    path = None
    if "--ask" in rest:
        at = rest.index("--ask")
        path = rest[at + 1] if at + 1 < len(rest) else ""
        del rest[at : at + 2]
    if len(rest) > 1 or any(each.startswith("-") for each in rest) or path == "":
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    ingest = rest[0] if rest else SOCKET
    admin = f"{ingest.rpartition('/')[0] or '.'}/{ADMIN_NAME}"
    try:
        reason = connect(ingest) if path is None else ask(admin, path)
    except OSError as error:
        reason = f"{ingest if path is None else admin}: {error.strerror or error}"
    if reason:
        sys.stderr.write(f"{reason}\n")
        return 1
    return 0


def connect(ingest: str) -> str:
    """Connect to the front door; nothing is sent. Return an empty text.

    Raises:
        OSError: nobody listens there, or this user may not send there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.connect(ingest)
    return ""


def ask(admin: str, path: str) -> str:
    """Ask the daemon's HTTP. Return an empty text where it answers 200, else what it answers.

    Raises:
        OSError: it cannot be asked, or does not answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(_TIMEOUT_S)
        door.connect(admin)
        door.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n" not in head:
            part = door.recv(1024)
            if not part:
                break
            head += part
    line = head.partition(b"\r\n")[0].decode("latin-1")
    return "" if line.split(" ")[1:2] == ["200"] else f"{path}: {line or 'no answer'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
