"""What goes wrong on the way to a sink -> log lines, the same at most once a minute, with its count."""

import logging
from collections.abc import Callable, Mapping, Sequence

from aiokpl_metricsd.configuring.secrecy import redact
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.log import Throttle
from aiokpl_metricsd.snapshot import MetricSnapshot

# A backend may answer with a page.
MAX_ERROR_CHARS = 500

_INTERVAL_S = 60.0


class DeliveryLog:
    """The log of one sink's deliveries. Failures of one kind are the same, whatever their words.

    Args:
        sink: the sink's name, in every line.
        log: where the lines go.
        clock: monotonic seconds.
    """

    def __init__(self, sink: str, log: logging.Logger, clock: Callable[[], float]) -> None:
        """Start with nothing said."""
        self._sink = sink
        self._log = log
        self._throttle = Throttle(_INTERVAL_S, clock)
        self._secrets: tuple[str, ...] = ()

    def hide(self, secrets: Sequence[str]) -> None:
        """Show these in no description of an error, nor those of the sink that had this name before."""
        self._secrets = tuple(dict.fromkeys((*secrets, *self._secrets)))

    def describe(self, error: BaseException) -> str:
        """Return the error's kind and words on one line, without secrets."""
        return describe_error(error, self._secrets)

    def fail(self, what: str, error: BaseException, *, snapshots: int | None = None) -> None:
        """Say that the sink failed: `what` says at what."""
        size = {} if snapshots is None else {"snapshots": snapshots}
        # What the operator has to mend does not pass by itself.
        level = logging.ERROR if isinstance(error, ConfigurationError) else logging.WARNING
        self._say(level, f"{what} failed", type(error).__name__, {"error": self.describe(error), **size})

    def stall(self, snapshots: int, delay_s: float) -> None:
        """Say that the backend refuses whatever it is sent."""
        fields = {"snapshots": snapshots, "retry_in_s": round(delay_s, 1)}
        self._say(logging.ERROR, "the backend refuses everything: are the credentials right?", "", fields)

    def quarantine(self, poison: Sequence[MetricSnapshot]) -> None:
        """Name what was refused for good."""
        by_name: dict[str, list[MetricSnapshot]] = {}
        for snapshot in poison:
            by_name.setdefault(snapshot.name, []).append(snapshot)
        for name, snapshots in by_name.items():
            fields = {
                "metric": name,
                "dimensions": dict(snapshots[0].dimensions),
                "snapshots": len(snapshots),
            }
            self._say(logging.WARNING, "refused for good, quarantined", name, fields)

    def drop(self, snapshots: int, windows: int, reason: str) -> None:
        """Say that windows were discarded."""
        fields = {"snapshots": snapshots, "windows": windows, "reason": reason}
        self._say(logging.ERROR, "not delivered, dropped", reason, fields)

    def expire(self, snapshots: int, age_s: float) -> None:
        """Say that a window became too old."""
        fields = {"snapshots": snapshots, "age_s": round(age_s)}
        self._say(logging.ERROR, "not delivered, expired", "", fields)

    def give_up(self, snapshots: int) -> None:
        """Say that nobody knows whether the backend took these, and that they are not sent again."""
        self._say(logging.ERROR, "perhaps delivered, not repeated", "", {"snapshots": snapshots})

    def keep(self, snapshots: int, windows: int) -> None:
        """Say what waits in the outbox for the next daemon."""
        self._say(
            logging.WARNING, "not delivered yet, kept", "", {"snapshots": snapshots, "windows": windows}
        )

    def lose(self, snapshots: int) -> None:
        """Say that a restart did not find what the last daemon had counted as waiting."""
        self._say(logging.ERROR, "not there after the restart, lost", "", {"snapshots": snapshots})

    def fault(self, what: str, error: Exception) -> None:
        """Say that the daemon itself failed, with the traceback: this is a fault to be reported."""
        self._say(logging.ERROR, f"internal fault at {what}", type(error).__name__, {}, error)

    def _say(
        self,
        level: int,
        message: str,
        detail: str,
        fields: Mapping[str, object],
        error: Exception | None = None,
    ) -> None:
        times = self._throttle.admit(f"{message} {detail}")
        if times:
            said = {"sink": self._sink, **fields, **({"times": times} if times > 1 else {})}
            self._log.log(level, message, extra={"fields": said}, exc_info=error)


def describe_error(error: BaseException, secrets: Sequence[str] = ()) -> str:
    """Return the error's kind and words on one line, which can be encoded, whatever its `__str__` does.

    Args:
        error: that a sink raised.
        secrets: texts that are not shown.
    """
    try:
        # A file's name or a backend's bytes may have come as surrogates, which neither a log nor an account
        # can hold.
        words = " ".join(redact(str(error), secrets).split()).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - a sink may raise anything
        words = ""
    return f"{type(error).__name__}: {words}"[:MAX_ERROR_CHARS] if words else type(error).__name__


__all__ = ["MAX_ERROR_CHARS", "DeliveryLog", "describe_error"]
