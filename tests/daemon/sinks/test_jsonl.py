"""Snapshots -> a file: whole windows or nothing, whatever the disk and other processes do."""

# ruff: noqa: ASYNC240 - between the steps a test looks at the real files

import asyncio
import errno
import os
import resource
import stat
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from aiokpl_metricsd.errors import ConfigurationError, PartialExportError, RetryableExportError
from aiokpl_metricsd.rendering.rows import encode_row
from aiokpl_metricsd.sinks import MetricsSink, RepeatRule
from aiokpl_metricsd.sinks.jsonl import JsonlSink
from aiokpl_metricsd.snapshot import MetricSnapshot

UNPRINTABLE = MetricSnapshot("bad", 1, 1.0, 1.0, 1.0, (("stream", "\ud800"),))


@pytest.fixture(
    params=[("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})],
    ids=["asyncio", "uvloop", "trio"],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "windows.jsonl"


def build_window(number: int, count: int = 3) -> list[MetricSnapshot]:
    return [
        MetricSnapshot("a", 1, 1.0, 1.0, 1.0, (("shard", f"{row:06}"),), window_id=f"w-{number:03}")
        for row in range(count)
    ]


def encode_all(snapshots: Sequence[MetricSnapshot]) -> bytes:
    return b"".join(encode_row(snapshot) + b"\n" for snapshot in snapshots)


WINDOW_BYTES = len(encode_all(build_window(0)))


@contextmanager
def file_size_limit(size: int) -> Generator[None, None, None]:
    """Make the kernel cut a write short at `size`, and refuse the next: what a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_it_is_a_sink_that_adds_and_wants_its_windows_in_order(path: Path) -> None:
    assert isinstance(JsonlSink(path=str(path)), MetricsSink)
    assert JsonlSink.repeat_rule is RepeatRule.ADDS
    assert JsonlSink.ordered is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "path"),
        ({"path": "x", "max_bytes": 0}, "max_bytes"),
        ({"path": "x", "keep": -1}, "keep"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JsonlSink(**options)


@pytest.mark.anyio
async def test_windows_are_appended_in_order_also_to_what_was_there(path: Path) -> None:
    path.write_bytes(encode_all(build_window(1)))
    sink = JsonlSink(path=str(path))
    for number in (2, 3):
        async with sink:
            await sink.export(build_window(number, 450))
    assert path.read_bytes() == encode_all([*build_window(1), *build_window(2, 450), *build_window(3, 450)])


@pytest.mark.anyio
async def test_a_window_is_one_append(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    writev = os.writev

    def count(descriptor: int, buffers: Sequence[Any]) -> int:
        calls.append(len(buffers))
        return writev(descriptor, buffers)

    monkeypatch.setattr(os, "writev", count)
    async with JsonlSink(path=str(path)) as sink:
        await sink.export(build_window(1, 5000))
    assert len(calls) == 1
    assert path.read_bytes() == encode_all(build_window(1, 5000))


@pytest.mark.anyio
async def test_an_export_of_nothing_or_while_not_entered_does_nothing(path: Path) -> None:
    sink = JsonlSink(path=str(path))
    await sink.export(build_window(1))
    assert not path.exists()
    async with sink:
        await sink.export([])
    await sink.export(build_window(1))
    await sink.__aexit__(None, None, None)
    assert path.read_bytes() == b""


@pytest.mark.anyio
async def test_strangers_cannot_read_the_file(path: Path) -> None:
    async with JsonlSink(path=str(path)):
        assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0


@pytest.mark.anyio
async def test_a_missing_directory_is_named_on_entering(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"jsonl: cannot open .*missing/x: No such file or directory"
    ):
        async with JsonlSink(path=str(tmp_path / "missing" / "x")):
            pass


@pytest.mark.anyio
async def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/full")):
        with pytest.raises(ConfigurationError, match=r"directory|no regular file"):
            async with JsonlSink(path=str(path)):
                pass


@pytest.mark.anyio
async def test_a_disk_that_is_full_on_entering_only_holds_up_the_exports(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "open", refuse)
        sink = await JsonlSink(path=str(path)).__aenter__()
        with pytest.raises(RetryableExportError, match="No space left"):
            await sink.export(build_window(1))
    await sink.export(build_window(1))
    await sink.__aexit__(None, None, None)
    assert path.read_bytes() == encode_all(build_window(1))


@pytest.mark.anyio
async def test_files_are_renamed_before_a_window_would_pass_max_bytes_and_the_oldest_go(path: Path) -> None:
    async with JsonlSink(path=str(path), max_bytes=2 * WINDOW_BYTES, keep=2) as sink:
        for number in range(9):
            await sink.export(build_window(number))
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "windows.jsonl",
        "windows.jsonl.1",
        "windows.jsonl.2",
    ]
    assert path.read_bytes() == encode_all(build_window(8))
    assert Path(f"{path}.1").read_bytes() == encode_all([*build_window(6), *build_window(7)])
    assert Path(f"{path}.2").read_bytes() == encode_all([*build_window(4), *build_window(5)])


@pytest.mark.anyio
async def test_a_window_larger_than_max_bytes_stays_whole_in_a_file_of_its_own(path: Path) -> None:
    async with JsonlSink(path=str(path), max_bytes=10) as sink:
        for number in range(3):
            await sink.export(build_window(number))
    files = [path, Path(f"{path}.1"), Path(f"{path}.2")]
    assert [file.read_bytes() for file in files] == [encode_all(build_window(number)) for number in (2, 1, 0)]


@pytest.mark.anyio
async def test_a_free_number_is_used_before_an_old_file_is_given_up(path: Path) -> None:
    Path(f"{path}.1").write_text("one\n")
    Path(f"{path}.3").write_text("three\n")
    async with JsonlSink(path=str(path), max_bytes=1, keep=3) as sink:
        await sink.export(build_window(0))
        await sink.export(build_window(1))
    assert Path(f"{path}.1").read_bytes() == encode_all(build_window(0))
    assert Path(f"{path}.2").read_text() == "one\n"
    assert Path(f"{path}.3").read_text() == "three\n"


@pytest.mark.anyio
async def test_with_keep_0_the_full_file_is_deleted(path: Path) -> None:
    async with JsonlSink(path=str(path), max_bytes=1, keep=0) as sink:
        await sink.export(build_window(0))
        await sink.export(build_window(1))
    assert [file.name for file in path.parent.iterdir()] == ["windows.jsonl"]
    assert path.read_bytes() == encode_all(build_window(1))


@pytest.mark.anyio
async def test_without_max_bytes_nothing_is_renamed(path: Path) -> None:
    async with JsonlSink(path=str(path), max_bytes=None) as sink:
        for number in range(5):
            await sink.export(build_window(number))
    assert [file.name for file in path.parent.iterdir()] == ["windows.jsonl"]


@pytest.mark.anyio
async def test_a_short_write_is_taken_back_and_the_retry_neither_doubles_nor_tears(path: Path) -> None:
    async with JsonlSink(path=str(path)) as sink:
        await sink.export(build_window(1))
        with file_size_limit(WINDOW_BYTES + WINDOW_BYTES // 2):
            for _ in range(2):
                with pytest.raises(RetryableExportError, match="File too large"):
                    await sink.export(build_window(2))
                assert path.read_bytes() == encode_all(build_window(1))
        await sink.export(build_window(2))
    assert path.read_bytes() == encode_all([*build_window(1), *build_window(2)])


@pytest.mark.anyio
async def test_what_could_not_be_cut_off_at_once_is_cut_off_before_the_next_window(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with JsonlSink(path=str(path)) as sink:
        await sink.export(build_window(1))
        with monkeypatch.context() as broken, file_size_limit(WINDOW_BYTES + 10):
            broken.setattr(os, "ftruncate", refuse)
            for _ in range(2):
                with pytest.raises(RetryableExportError):
                    await sink.export(build_window(2))
        assert path.stat().st_size == WINDOW_BYTES + 10
        await sink.export(build_window(2))
    assert path.read_bytes() == encode_all([*build_window(1), *build_window(2)])


@pytest.mark.anyio
async def test_a_rename_that_fails_is_retryable_and_loses_nothing(path: Path) -> None:
    Path(f"{path}.1").mkdir()
    async with JsonlSink(path=str(path), max_bytes=1, keep=1) as sink:
        await sink.export(build_window(1))
        with pytest.raises(RetryableExportError, match="directory"):
            await sink.export(build_window(2))
        Path(f"{path}.1").rmdir()
        await sink.export(build_window(2))
    assert Path(f"{path}.1").read_bytes() == encode_all(build_window(1))
    assert path.read_bytes() == encode_all(build_window(2))


@pytest.mark.anyio
async def test_a_file_that_another_process_moved_away_is_left_to_it(path: Path) -> None:
    async with JsonlSink(path=str(path)) as sink:
        await sink.export(build_window(1))
        path.rename(f"{path}.moved")
        await sink.export(build_window(2))
        path.unlink()
        path.write_text("")
        await sink.export(build_window(3))
    assert Path(f"{path}.moved").read_bytes() == encode_all(build_window(1))
    assert path.read_bytes() == encode_all(build_window(3))


@pytest.mark.anyio
async def test_a_file_that_another_process_truncated_is_appended_to(path: Path) -> None:
    async with JsonlSink(path=str(path)) as sink:
        await sink.export(build_window(1))
        os.truncate(path, 0)
        await sink.export(build_window(2))
    assert path.read_bytes() == encode_all(build_window(2))


@pytest.mark.anyio
@pytest.mark.parametrize("kept", [1, 5, 40])
async def test_a_row_torn_by_the_death_of_the_process_is_cut_off_on_opening(path: Path, kept: int) -> None:
    path.write_bytes(encode_all(build_window(1)) + encode_row(build_window(2)[0])[:kept])
    async with JsonlSink(path=str(path)) as sink:
        await sink.export(build_window(2))
    assert path.read_bytes() == encode_all([*build_window(1), *build_window(2)])


@pytest.mark.anyio
async def test_a_last_line_that_is_not_ours_is_ended_and_not_deleted(path: Path) -> None:
    path.write_text("someone's line")
    async with JsonlSink(path=str(path)) as sink:
        await sink.export(build_window(1))
    assert path.read_bytes() == b"someone's line\n" + encode_all(build_window(1))


@pytest.mark.anyio
async def test_a_snapshot_that_has_no_json_form_is_named_and_the_rest_appended(path: Path) -> None:
    first, second, third = build_window(1)
    async with JsonlSink(path=str(path)) as sink:
        with pytest.raises(PartialExportError) as caught:
            await sink.export([first, second, UNPRINTABLE, third])
    assert caught.value.rejected == (UNPRINTABLE,)
    assert caught.value.remaining == ()
    assert path.read_bytes() == encode_all(build_window(1))


@pytest.mark.anyio
async def test_exports_at_the_same_time_do_not_mix(path: Path) -> None:
    async with JsonlSink(path=str(path)) as sink, create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(sink.export, build_window(number, 1000))
    lines = path.read_bytes().splitlines(keepends=True)
    windows = {b"".join(lines[start : start + 1000]) for start in range(0, len(lines), 1000)}
    assert windows == {encode_all(build_window(number, 1000)) for number in range(5)}


@pytest.mark.anyio
async def test_an_export_that_was_cancelled_while_encoding_leaves_the_file_as_it_was(path: Path) -> None:
    async with JsonlSink(path=str(path)) as sink:
        async with create_task_group() as tasks:
            tasks.start_soon(sink.export, build_window(1, 5000))
            await checkpoint()
            tasks.cancel_scope.cancel()
        assert path.read_bytes() == b""
        await sink.export(build_window(2))
    assert path.read_bytes() == encode_all(build_window(2))


def test_a_window_that_asyncio_cancelled_while_the_disk_hung_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev = os.writev
    hanging, released = threading.Event(), threading.Event()

    def hang(descriptor: int, buffers: Sequence[Any]) -> int:
        hanging.set()
        assert released.wait(30)
        return writev(descriptor, buffers)

    async def main() -> None:
        async with JsonlSink(path=str(path)) as sink:
            task = asyncio.ensure_future(sink.export(build_window(1)))
            await asyncio.to_thread(hanging.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            released.set()
            await sink.export(build_window(1))

    monkeypatch.setattr(os, "writev", hang)
    asyncio.run(main())
    assert path.read_bytes() == encode_all(build_window(1))
