"""Mistakes and problems -> log lines, of problems one a minute at most. Never raises an `Exception`.

A log handler may do anything: block, exit, record metrics. So the sender's thread has its lines logged by a
thread that lives for them alone; whoever else sends logs them himself.
"""

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any

from aiokpl_metrics_client.clock import Clock

INTERVAL_S = 60.0


class Complaint:
    """What there is to say to whoever reads the log.

    Attributes:
        problem: in words; "" where there is none. Said by the next `tell` that may.
    """

    __slots__ = ("_next_at", "_teller", "problem")

    def __init__(self) -> None:
        """Have none."""
        self.problem = ""
        self._next_at = 0.0
        self._teller: threading.Thread | None = None

    def tell(self, take_mistakes: Callable[[], list[str]]) -> None:
        """Log the mistakes, and the problem if the last line about one is long enough ago."""
        for line in [*take_mistakes(), *self._take_problem()]:
            warn(line)

    def tell_aside(self, take_mistakes: Callable[[], list[str]]) -> None:
        """Do the same without waiting for a log handler: where one still blocks, the lines wait for it."""
        if self._teller is not None and self._teller.is_alive():
            return
        lines = [*take_mistakes(), *self._take_problem()]
        if not lines:
            return
        teller = threading.Thread(
            target=_warn_of_all, args=(lines,), name="aiokpl-metrics-client-log", daemon=True
        )
        try:
            teller.start()
        except (RuntimeError, MemoryError):
            _warn_of_all(lines)
        else:
            self._teller = teller

    def _take_problem(self) -> list[str]:
        problem, now = self.problem, Clock.monotonic()
        if not problem or now < self._next_at:
            return []
        self._next_at = now + INTERVAL_S
        self.problem = ""
        return [problem]


def warn(text: str) -> None:
    """Log a line, or say it on standard error in a program that never imported `logging`."""
    # Not imported here, for the reason that `process` gives. Who has not imported it has no handler.
    logging: Any = sys.modules.get("logging")
    try:
        if hasattr(logging, "getLogger"):
            logging.getLogger("aiokpl_metrics_client").warning("metrics: %s", text)
        else:
            sys.stderr.write(f"metrics: {text}\n")
    except Exception:  # noqa: BLE001 - neither a log handler nor a closed stream may end whoever records
        return


def _warn_of_all(lines: list[str]) -> None:
    # Nothing that comes out of a log handler ends more than this.
    with contextlib.suppress(BaseException):
        for line in lines:
            warn(line)


__all__ = ["INTERVAL_S", "Complaint", "warn"]
