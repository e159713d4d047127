"""Snapshots -> standard output: real pipes, terminals and full devices."""

# ruff: noqa: ASYNC230 - between the steps a test looks at the real files

import asyncio
import fcntl
import json
import os
import resource
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import TextIO

import pytest
from anyio import create_task_group, fail_after, to_thread
from anyio.lowlevel import checkpoint

from aiokpl_metricsd.errors import ConfigurationError, PartialExportError, RetryableExportError
from aiokpl_metricsd.rendering.rows import encode_row
from aiokpl_metricsd.sinks import MetricsSink, RepeatRule
from aiokpl_metricsd.sinks.console import ConsoleSink
from aiokpl_metricsd.snapshot import MetricSnapshot

SNAPSHOT = MetricSnapshot("a", 1, 2.0, 2.0, 2.0, (("stream", "s" * 100),), 60.0, 120.0, window_id="w-1")
UNPRINTABLE = MetricSnapshot("bad", 1, 1.0, 1.0, 1.0, (("stream", "\ud800"),))


@pytest.fixture(
    params=[("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})],
    ids=["asyncio", "uvloop", "trio"],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def open_stream(stack: ExitStack, descriptor: int) -> TextIO:
    # Unbuffered below: what the sink cannot write must not come out when the stream is closed.
    return stack.enter_context(os.fdopen(descriptor, "w"))


def open_pipe(stack: ExitStack) -> tuple[int, TextIO]:
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    return reader, open_stream(stack, writer)


def fill(stream: TextIO) -> int:
    """Fill a pipe or socket to the brim, and say how many bytes that took."""
    descriptor, count = stream.fileno(), 0
    os.set_blocking(descriptor, False)
    for size in (4096, 1):
        try:
            while True:
                count += os.write(descriptor, size * b"\n")
        except BlockingIOError:
            continue
    os.set_blocking(descriptor, True)
    return count


def read(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = os.read(descriptor, count - len(data))
        assert part
        data += part
    return data


def read_until(descriptor: int, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = os.read(descriptor, 65536)
        assert part
        data += part
    return data


@contextmanager
def file_size_limit(size: int) -> Generator[None, None, None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def encode_all(snapshots: Sequence[MetricSnapshot]) -> bytes:
    return b"".join(encode_row(snapshot) + b"\n" for snapshot in snapshots)


def build_window(count: int) -> list[MetricSnapshot]:
    return [MetricSnapshot("a", 1, 1.0, 1.0, 1.0, (("shard", f"{number:06}"),)) for number in range(count)]


def test_it_is_a_sink_that_adds_and_wants_its_windows_in_order() -> None:
    assert isinstance(ConsoleSink(), MetricsSink)
    assert ConsoleSink.repeat_rule is RepeatRule.ADDS
    assert ConsoleSink.ordered is True


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match='"table" or "json", not \'yaml\''):
        ConsoleSink(format="yaml")  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_table_is_printed_to_a_text_stream() -> None:
    stream = StringIO()
    async with ConsoleSink(stream=stream) as sink:
        await sink.export([SNAPSHOT])
    heading, columns, row, *rest = stream.getvalue().split("\n")
    assert heading == "window 1970-01-01 00:01:00 to 00:02:00 UTC  id w-1  1 series"
    assert columns.split() == ["NAME", "DIMENSIONS", "KIND", "COUNT", "SUM", "MIN", "MAX"]
    assert row.split() == ["a", f"stream={'s' * 100}", "counter", "1", "2", "2", "2"]
    assert rest == ["", ""]


@pytest.mark.anyio
async def test_json_is_one_object_a_line_in_the_order_given() -> None:
    stream = StringIO()
    window = build_window(1000)[::-1]
    async with ConsoleSink(format="json", stream=stream) as sink:
        await sink.export(window)
    assert stream.getvalue().encode() == encode_all(window)


@pytest.mark.anyio
async def test_standard_output_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    async with ConsoleSink(format="json") as sink:
        await sink.export([SNAPSHOT])
    assert json.loads(capsys.readouterr().out)["window_id"] == "w-1"


@pytest.mark.anyio
async def test_a_process_without_standard_output_gets_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ConfigurationError, match="no standard output"):
        async with ConsoleSink():
            pass


@pytest.mark.anyio
async def test_an_export_of_nothing_or_while_not_entered_prints_nothing() -> None:
    stream = StringIO()
    sink = ConsoleSink(stream=stream)
    await sink.export([SNAPSHOT])
    async with sink:
        await sink.export([])
    await sink.export([SNAPSHOT])
    assert stream.getvalue() == ""


@pytest.mark.anyio
async def test_it_may_be_entered_and_left_again_and_leaves_the_stream_open(stack: ExitStack) -> None:
    reader, stream = open_pipe(stack)
    sink = ConsoleSink(format="json", stream=stream)
    for _ in range(2):
        async with sink:
            await sink.export([SNAPSHOT])
    await sink.__aexit__(None, None, None)
    stream.write("still open\n")
    stream.flush()
    assert read_until(reader, b"open\n") == 2 * encode_all([SNAPSHOT]) + b"still open\n"


@pytest.mark.anyio
async def test_the_shared_pipe_stays_a_blocking_one(stack: ExitStack) -> None:
    _, stream = open_pipe(stack)
    async with ConsoleSink(stream=stream) as sink:
        await sink.export([SNAPSHOT])
        assert not fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


@pytest.mark.anyio
async def test_a_terminal_gets_lines_no_wider_than_itself(stack: ExitStack) -> None:
    master, slave = os.openpty()
    stack.callback(os.close, master)
    stream = open_stream(stack, slave)
    termios.tcsetwinsize(slave, (24, 80))
    async with ConsoleSink(stream=stream) as sink:
        await sink.export([SNAPSHOT])
        lines = read_until(master, b"\r\n\r\n").decode().splitlines()
        assert [len(line) for line in lines[1:3]] == [80, 80]
        assert "sss..." in lines[2]
        termios.tcsetwinsize(slave, (24, 200))
        await sink.export([SNAPSHOT])
        assert "s" * 100 in read_until(master, b"\r\n\r\n").decode()


@pytest.mark.anyio
async def test_a_terminal_of_unknown_size_and_a_pipe_get_whole_lines(stack: ExitStack) -> None:
    master, slave = os.openpty()
    stack.callback(os.close, master)
    reader, writer = open_pipe(stack)
    for stream, source in ((open_stream(stack, slave), master), (writer, reader)):
        async with ConsoleSink(stream=stream) as sink:
            await sink.export([SNAPSHOT])
            assert "s" * 100 in os.read(source, 65536).decode()


@pytest.mark.anyio
async def test_what_the_streams_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w", encoding="ascii") as stream:
        async with ConsoleSink(stream=stream) as sink:
            await sink.export([MetricSnapshot("grün", 1, 1.0, 1.0, 1.0)])
    assert "gr\\xfcn" in path.read_text()


@pytest.mark.anyio
async def test_a_large_window_reaches_a_slow_reader_whole_and_in_order(stack: ExitStack) -> None:
    reader, stream = open_pipe(stack)
    window = build_window(5000)
    expected = encode_all(window)
    async with ConsoleSink(format="json", stream=stream) as sink, create_task_group() as tasks:
        tasks.start_soon(sink.export, window)
        assert await to_thread.run_sync(read, reader, len(expected)) == expected


@pytest.mark.anyio
async def test_a_full_pipe_holds_up_the_export_alone(stack: ExitStack) -> None:
    reader, stream = open_pipe(stack)
    filling = fill(stream)
    done = False

    async with ConsoleSink(format="json", stream=stream) as sink:

        async def export() -> None:
            nonlocal done
            await sink.export([SNAPSHOT])
            done = True

        with fail_after(30):
            async with create_task_group() as tasks:
                tasks.start_soon(export)
                for _ in range(200):
                    await checkpoint()
                assert not done
                read(reader, filling)
        assert done
        assert read(reader, len(encode_all([SNAPSHOT]))) == encode_all([SNAPSHOT])


def build_pipe(stack: ExitStack) -> tuple[int, TextIO]:
    return open_pipe(stack)


def build_socket(stack: ExitStack) -> tuple[int, TextIO]:
    # What a system service has for its standard output; it cannot be opened apart.
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    return ours.fileno(), open_stream(stack, theirs.detach())


@pytest.mark.anyio
@pytest.mark.parametrize("build", [build_pipe, build_socket])
async def test_an_export_blocked_by_its_reader_can_be_cancelled_and_the_sink_left(
    stack: ExitStack, build: Callable[[ExitStack], tuple[int, TextIO]]
) -> None:
    reader, stream = build(stack)
    filling = fill(stream)
    with fail_after(30):
        async with ConsoleSink(format="json", stream=stream) as sink:
            async with create_task_group() as tasks:
                tasks.start_soon(sink.export, build_window(1000))
                for _ in range(50):
                    await checkpoint()
                tasks.cancel_scope.cancel()
            read(reader, filling)
            await sink.export([SNAPSHOT])
    # Nothing of the cancelled window comes out between or after.
    assert read(reader, len(encode_all([SNAPSHOT]))) == encode_all([SNAPSHOT])
    stream.write("end\n")
    stream.flush()
    assert read_until(reader, b"\n") == b"end\n"


BLOCKED_PROCESS = """
import asyncio
from aiokpl_metricsd.sinks.console import ConsoleSink
from aiokpl_metricsd.snapshot import MetricSnapshot

async def main():
    async with ConsoleSink() as sink:
        await asyncio.wait_for(sink.export([MetricSnapshot("a", 1, 1.0, 1.0, 1.0)] * 20000), 0.2)

try:
    asyncio.run(main())
except TimeoutError:
    raise SystemExit(7)
"""


def test_a_process_whose_standard_output_nobody_reads_can_still_exit() -> None:
    with subprocess.Popen([sys.executable, "-c", BLOCKED_PROCESS], stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 7


@pytest.mark.anyio
async def test_a_full_device_is_retryable() -> None:
    with Path("/dev/full").open("w") as stream:
        async with ConsoleSink(stream=stream) as sink:
            with pytest.raises(RetryableExportError, match="No space left"):
                await sink.export([SNAPSHOT])


@pytest.mark.anyio
async def test_a_closed_pipe_is_retryable_because_the_data_are_not_at_fault(stack: ExitStack) -> None:
    reader, writer = os.pipe()
    stream = open_stream(stack, writer)
    async with ConsoleSink(stream=stream) as sink:
        os.close(reader)
        for _ in range(2):
            with pytest.raises(RetryableExportError, match="Broken pipe"):
                await sink.export([SNAPSHOT])


@pytest.mark.anyio
async def test_a_pipe_that_was_closed_before_entering_is_retryable_too(stack: ExitStack) -> None:
    reader, writer = os.pipe()
    stream = open_stream(stack, writer)
    os.close(reader)
    async with ConsoleSink(stream=stream) as sink:
        with pytest.raises(RetryableExportError, match="Broken pipe"):
            await sink.export([SNAPSHOT])


@pytest.mark.anyio
async def test_a_text_stream_that_was_closed_is_retryable() -> None:
    stream = StringIO()
    async with ConsoleSink(stream=stream) as sink:
        stream.close()
        with pytest.raises(RetryableExportError, match="closed file"):
            await sink.export([SNAPSHOT])


@pytest.mark.anyio
async def test_a_retry_after_a_torn_line_begins_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "out"
    row = encode_row(SNAPSHOT)
    with path.open("w") as stream:
        async with ConsoleSink(format="json", stream=stream) as sink:
            with file_size_limit(10), pytest.raises(RetryableExportError, match="too large"):
                await sink.export([SNAPSHOT])
            await sink.export([SNAPSHOT])
            await sink.export([SNAPSHOT])
    assert path.read_bytes().split(b"\n") == [row[:10], row, row, b""]


@pytest.mark.anyio
async def test_a_snapshot_that_has_no_json_form_is_named_and_the_rest_printed() -> None:
    stream = StringIO()
    async with ConsoleSink(format="json", stream=stream) as sink:
        with pytest.raises(PartialExportError) as caught:
            await sink.export([SNAPSHOT, UNPRINTABLE, SNAPSHOT])
    assert caught.value.rejected == (UNPRINTABLE,)
    assert caught.value.remaining == ()
    assert stream.getvalue().encode() == encode_all([SNAPSHOT, SNAPSHOT])


def test_asyncios_own_cancellation_ends_a_blocked_export_as_well() -> None:
    async def main(stream: TextIO) -> None:
        async with ConsoleSink(stream=stream) as sink:
            task = asyncio.ensure_future(sink.export([SNAPSHOT]))
            for _ in range(50):
                await checkpoint()
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with ExitStack() as stack:
        reader, stream = open_pipe(stack)
        filling = fill(stream)
        asyncio.run(main(stream))
        assert read(reader, filling) == filling * b"\n"
