"""A problem -> one log line a minute, at most. Never raises, whatever a log handler does."""

import sys
import time
from typing import Any

INTERVAL_S = 60.0


class Complaint:
    """What there is to say to whoever reads the log.

    Attributes:
        problem: in words; "" where there is none. Said by the next `say` that may.
    """

    __slots__ = ("_next_at", "problem")

    def __init__(self) -> None:
        """Have none."""
        self.problem = ""
        self._next_at = 0.0

    def say(self) -> None:
        """Log the problem, if there is one and the last line is long enough ago."""
        problem = self.problem
        if not problem or time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + INTERVAL_S
        self.problem = ""
        warn(problem)


def warn(text: str) -> None:
    """Log a line, or say it on standard error in a program that never imported `logging`."""
    # Not imported here, for the reason that `process` gives. Who has not imported it has no handler.
    logging: Any = sys.modules.get("logging")
    try:
        if hasattr(logging, "getLogger"):
            logging.getLogger("aiokpl_metrics_client").warning("metrics: %s", text)
        else:
            sys.stderr.write(f"metrics: {text}\n")
    except Exception:  # noqa: BLE001 - neither a log handler nor a closed stream may end the sender
        return


__all__ = ["INTERVAL_S", "Complaint", "warn"]
