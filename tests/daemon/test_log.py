"""Log lines: what they look like, and that nothing that is wrong with them reaches the daemon."""

import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from aiokpl_metricsd.log import JsonFormatter, LineHandler, TextFormatter, Throttle, configure


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class BrokenStream(io.StringIO):
    """A stream whose reader has gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str, /) -> int:
        raise self.error


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield root
    root.setLevel(level)
    root.handlers[:] = handlers


def make_record(message: str = "window closed", *args: object, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("aiokpl_metricsd.clock", logging.WARNING, __file__, 1, message, args, None)
    record.created = 1_762_300_800.25
    if fields:
        record.fields = fields
    return record


def decode(line: str) -> dict[str, object]:
    return msgspec.json.decode(line, type=dict[str, object])


def test_a_text_line_is_time_level_message_and_fields() -> None:
    line = TextFormatter().format(make_record("window closed late by %d s", 3, sink="cw", snapshots=7))
    assert line == "2025-11-05T00:00:00.250Z WARNING window closed late by 3 s sink=cw snapshots=7"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("a\nb", '"a\\nb"'),
        (None, "None"),
        (1.5, "1.5"),
        ("é", "é"),
        ("\ud800", '"\\\\ud800"'),
    ],
)
def test_a_text_field_is_quoted_where_it_could_be_misread(value: object, shown: str) -> None:
    assert TextFormatter().format(make_record("m", key=value)).endswith(f" WARNING m key={shown}")


@pytest.mark.parametrize("message", ["one\ntwo", "one\r\ntwo", "one\u2028two"])
def test_a_text_line_stays_one_line_whatever_the_message_holds(message: str) -> None:
    assert TextFormatter().format(make_record(message)).endswith("one\\ntwo")


def test_a_json_line_is_one_object_with_the_fields_beside_the_message() -> None:
    line = JsonFormatter().format(make_record("window\nclosed", sink="cw", snapshots=7))
    assert "\n" not in line
    assert decode(line) == {
        "time": "2025-11-05T00:00:00.250Z",
        "level": "warning",
        "logger": "aiokpl_metricsd.clock",
        "message": "window\nclosed",
        "sink": "cw",
        "snapshots": 7,
    }


def test_a_json_field_never_overwrites_what_every_line_has() -> None:
    entry = decode(JsonFormatter().format(make_record("m", level="summary", time=3)))
    assert (entry["level"], entry["level_"], entry["time_"]) == ("warning", "summary", 3)


@pytest.mark.parametrize("value", [object, ValueError("x"), 1 << 80, {1j: "odd key"}, "\ud800", float("nan")])
def test_a_json_line_takes_any_value(value: object) -> None:
    entry = decode(JsonFormatter().format(make_record("m", odd=value)))
    assert entry["message"] == "m"
    assert "odd" in entry


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_arguments_that_do_not_fit_the_message_leave_its_words(formatter: logging.Formatter) -> None:
    assert "late by %d s" in formatter.format(make_record("late by %d s", "three"))


def test_a_traceback_is_a_field_of_the_same_line() -> None:
    record = make_record("sink failed")
    try:
        raise ValueError("refused")  # noqa: TRY301 - a traceback is what is wanted
    except ValueError:
        record.exc_info = sys.exc_info()
    exception = decode(JsonFormatter().format(record))["exception"]
    assert isinstance(exception, str)
    assert exception.endswith("ValueError: refused")
    text = TextFormatter().format(record)
    assert "\n" not in text
    assert 'ValueError: refused"' in text


def test_fields_that_are_no_mapping_are_ignored() -> None:
    record = make_record("m")
    record.fields = 5
    assert TextFormatter().format(record) == "2025-11-05T00:00:00.250Z WARNING m"


def test_configure_sends_the_records_of_every_logger_from_its_level_on(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure("json", "info", stream)
    logger = logging.getLogger("some.library")
    logger.debug("too small")
    logger.info("started", extra={"fields": {"pid": 7}})
    lines = stream.getvalue().splitlines()
    assert [(decode(line)["message"], decode(line)["pid"]) for line in lines] == [("started", 7)]


def test_configure_called_again_replaces_what_it_did(root: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("text", "info", first)
    configure("text", "error", second)
    logging.getLogger("x").warning("not wanted")
    logging.getLogger("x").error("wanted")
    assert first.getvalue() == ""
    assert second.getvalue().endswith(" ERROR wanted\n")
    assert sum(isinstance(handler, LineHandler) for handler in root.handlers) == 1


def test_a_level_that_does_not_exist_is_refused_and_changes_nothing(root: logging.Logger) -> None:
    before = root.handlers[:]
    with pytest.raises(ValueError, match="LOUD"):
        configure("text", "loud", io.StringIO())
    assert root.handlers == before


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("I/O operation on closed file")],
)
def test_a_stream_that_fails_costs_the_line_and_nothing_else(error: Exception) -> None:
    handler = LineHandler(BrokenStream(error))
    handler.handle(make_record())
    handler.handle(make_record())
    assert handler.lost_records == 2


def test_a_field_that_cannot_be_shown_costs_the_line_and_nothing_else() -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    stream = io.StringIO()
    handler = LineHandler(stream)
    handler.setFormatter(TextFormatter())
    handler.handle(make_record("m", value=Mute()))
    handler.handle(make_record("next"))
    assert handler.lost_records == 1
    assert stream.getvalue().endswith(" WARNING next\n")


def test_a_process_whose_log_reader_has_gone_goes_on_and_exits_with_its_own_status() -> None:
    program = (
        "import logging, os, sys\n"
        "from aiokpl_metricsd.log import configure\n"
        "sys.stdin.read()\n"
        "configure('text', 'info', sys.stderr)\n"
        "for _ in range(3): logging.getLogger().info('anyone?')\n"
        "print('alive')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        output, _ = process.communicate(b"", timeout=60)
    assert output == b"alive\n"
    assert process.returncode == 0


def test_the_first_occurrence_is_admitted_and_the_next_ones_are_held_back() -> None:
    throttle = Throttle(60.0, Clock())
    assert [throttle.admit("cw: timed out") for _ in range(4)] == [1, 0, 0, 0]


def test_after_the_interval_an_occurrence_is_admitted_with_the_count_of_those_held_back() -> None:
    clock = Clock()
    throttle = Throttle(60.0, clock)
    admitted: list[int] = []
    for after_s in (0.0, 10.0, 49.9, 0.1, 59.0, 1.0, 60.0):
        clock.now_s += after_s
        admitted.append(throttle.admit("k"))
    assert admitted == [1, 0, 0, 3, 0, 2, 1]


def test_keys_are_throttled_apart() -> None:
    throttle = Throttle(60.0, Clock())
    assert [throttle.admit(key) for key in ("a", "b", "a", "c")] == [1, 1, 0, 1]


def test_of_too_many_keys_the_one_admitted_longest_ago_is_forgotten() -> None:
    clock = Clock()
    throttle = Throttle(60.0, clock, max_keys=2)
    throttle.admit("a")
    throttle.admit("a")
    clock.now_s += 1.0
    throttle.admit("b")
    throttle.admit("c")
    assert [throttle.admit("b"), throttle.admit("c")] == [0, 0]
    assert throttle.admit("a") == 1


def test_keys_without_end_leave_no_trace() -> None:
    throttle = Throttle(60.0, Clock(), max_keys=10)
    for number in range(1_000):
        throttle.admit(f"key {number}")
        throttle.admit(f"key {number}")
    assert len(throttle._admitted_at) == 10
    assert len(throttle._held_back) <= 10


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
@pytest.mark.parametrize("letter", ["\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\U000e0001", "\x85"])
def test_nothing_that_a_terminal_would_obey_is_in_a_line(formatter: logging.Formatter, letter: str) -> None:
    record = make_record(f"a{letter}b", **{f"k{letter}": f"v{letter}"})
    line = formatter.format(record)
    assert line.isprintable()
    if isinstance(formatter, JsonFormatter):
        said = decode(line)
        assert (said["message"], said[f"k{letter}"]) == (f"a{letter}b", f"v{letter}")
