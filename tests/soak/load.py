"""`python -m tests.soak.load SOCKET`: sends requests until SIGTERM, and prints how many were answered.

Each has a connection of its own. One that is refused or closed before anything came back was not served: a
worker that ends closes what it has not begun with.
"""

import signal
import sys
import threading
import time
from http.client import HTTPException
from pathlib import Path

import msgspec

from tests.support.admin import AdminConnection, ask

_CALLERS = 4

# Between two requests of one caller: the machine has more to do.
_PAUSE_S = 0.01


class Report(msgspec.Struct, frozen=True):
    """What became of the requests."""

    answered: int
    unanswered: int


def main(path: Path) -> None:
    """Send, and report."""
    ends = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ends.set())
    answered, unanswered = [0] * _CALLERS, [0] * _CALLERS

    def call(caller: int) -> None:
        while not ends.is_set():
            if is_answered(path):
                answered[caller] += 1
            else:
                unanswered[caller] += 1
            time.sleep(_PAUSE_S)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(_CALLERS)]
    for caller in callers:
        caller.start()
    # In slices, so that the handler gets its turn while nothing else wakes this thread.
    while not ends.wait(0.5):
        continue
    for caller in callers:
        caller.join()
    sys.stdout.write(msgspec.json.encode(Report(sum(answered), sum(unanswered))).decode())


def is_answered(path: Path) -> bool:
    """Send one request on a connection of its own; a worker that ends may close it without an answer."""
    connection = AdminConnection(path)
    try:
        status, body = ask(connection, "/")
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    assert (status, body) == (200, "ok")
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))


__all__ = ["Report", "is_answered", "main"]
