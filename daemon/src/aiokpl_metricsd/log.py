"""Records -> lines on standard error, as text or as JSON. It never raises: a lost line is counted.

A caller gives structure beside the words: `logger.warning("failed", extra={"fields": {"sink": name}})`.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TextIO, cast

import msgspec

from aiokpl_metricsd.configuring.secrecy import Hider

# A text line quotes a value that has one of these in it, so that the fields can be told apart.
_QUOTED = frozenset(' ="')


def configure(format: Literal["text", "json"], level: str, stream: TextIO) -> None:  # noqa: A002 - the option's name
    """Send the records of every logger to a stream. Called again, it replaces what it did before.

    Args:
        format: lines for people or for machines.
        level: debug, info, warning, error or critical.
        stream: standard error; standard output belongs to the console sink.

    Raises:
        ValueError: there is no such level.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    handler = LineHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    for old in [old for old in root.handlers if isinstance(old, LineHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)


def hide(secrets: Collection[str]) -> None:
    """Show these texts in no line from now on, whoever logs it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.hider.add(secrets)


def log_fault(error: BaseException) -> None:
    """Say an error that nobody expected, with its traceback, on one line that shows no secret."""
    message = "ended by an error that nobody expected"
    logging.getLogger("aiokpl_metricsd").critical(message, exc_info=error)


class LineHandler(logging.Handler):
    """Writes a line a record. It never raises.

    Attributes:
        hider: takes secrets out of each line.
        lost_records: records that could not be written.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to the stream, which stays the caller's."""
        super().__init__()
        self._stream = stream
        self.hider = Hider()
        self.lost_records = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or count it as lost."""
        try:
            self._stream.write(self.hider.hide(self.format(record)) + "\n")
            self._stream.flush()
        except Exception:  # noqa: BLE001 - the daemon outlives its log, whatever is wrong with a record or a stream
            self.lost_records += 1


class TextFormatter(logging.Formatter):
    """`time level message key=value`, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        fields = _read_fields(record)
        pairs = "".join(f" {key}={_quote(value)}" for key, value in fields.items())
        line = f"{_format_time(record.created)} {record.levelname} {_format_message(record)}{pairs}"
        return _escape("\\n".join(line.splitlines()))


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, then the caller's fields.

    A field that has one of those names gets a "_" behind it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        entry: dict[str, object] = {
            "time": _format_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _format_message(record),
        }
        for key, value in _read_fields(record).items():
            entry[f"{key}_" if key in {"time", "level", "logger", "message"} else key] = value
        try:
            return _escape(msgspec.json.encode(entry, enc_hook=str).decode())
        except (TypeError, ValueError, OverflowError, RecursionError):
            # A lone surrogate or an odd key: everything as text, what is no text replaced.
            clean = {_clean(key): _clean(value) for key, value in entry.items()}
            return _escape(msgspec.json.encode(clean).decode())


def _format_time(created_s: float) -> str:
    whole_s, milliseconds = divmod(int(created_s * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole_s))}.{milliseconds:03d}Z"


def _format_message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # The arguments do not fit the words; the words alone say more than nothing.
        return str(record.msg)


def _read_fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the caller's fields, and the traceback where there is one."""
    given: Any = getattr(record, "fields", None)
    fields: dict[str, object] = {}
    if isinstance(given, Mapping):
        fields.update((str(key), value) for key, value in cast("Mapping[object, object]", given).items())
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _quote(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and _QUOTED.isdisjoint(text):
        return text
    return msgspec.json.encode(_clean(text)).decode()


def _escape(line: str) -> str:
    """Return the line with an escape, as JSON has it, for what a terminal or a reader of lines would obey."""
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else _escape_letter(letter) for letter in line)


def _escape_letter(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def _clean(value: object) -> str:
    return str(value).encode(errors="backslashreplace").decode()


class Throttle:
    """Lets one occurrence of a key through in an interval, and counts those that it holds back.

    Args:
        interval_s: seconds between two occurrences of one key that are admitted.
        clock: monotonic seconds.
        max_keys: how many keys are remembered; of more, the one admitted longest ago is forgotten.
    """

    def __init__(
        self,
        interval_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_keys: int = 1_000,
    ) -> None:
        """Start with no key."""
        self._interval_s = interval_s
        self._clock = clock
        self._max_keys = max_keys
        # In the order of admission.
        self._admitted_at: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def admit(self, key: str) -> int:
        """Return 0 to hold this occurrence back, else how many there were since the last one admitted."""
        now = self._clock()
        admitted_at = self._admitted_at.get(key)
        if admitted_at is not None and now - admitted_at < self._interval_s:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return 0
        self._admitted_at.pop(key, None)
        self._admitted_at[key] = now
        if len(self._admitted_at) > self._max_keys:
            oldest = next(iter(self._admitted_at))
            del self._admitted_at[oldest]
            self._held_back.pop(oldest, None)
        return self._held_back.pop(key, 0) + 1


__all__ = ["JsonFormatter", "LineHandler", "TextFormatter", "Throttle", "configure", "hide", "log_fault"]
