"""The file holds every window exactly once, whenever the daemon dies."""

# ruff: noqa: ASYNC240 - between the steps a test looks at the real files

import asyncio
import os
import shutil
from pathlib import Path
from random import Random

import msgspec
import pytest

from aiokpl_metricsd.sinks.contract import RememberingSink
from aiokpl_metricsd.sinks.jsonl import JsonlSink
from tests.daemon.delivering.stored import Life, draw, living, until
from tests.daemon.fakes import build_window, serve
from tests.daemon.sinks.test_jsonl import WINDOW_BYTES, encode_all
from tests.daemon.sinks.test_jsonl import build_window as build_rows

pytestmark = pytest.mark.asyncio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "windows.jsonl"


async def write(path: Path, *numbers: int, state: bytes | None = None, **options: int) -> bytes:
    """Write windows and die; return the state after the first one."""
    sink = JsonlSink(path=str(path), **options)
    if state is not None:
        sink.load_state(state)
    async with sink:
        marked = sink.dump_state()
        for number in numbers:
            await sink.export(build_rows(number))
            if number == numbers[0]:
                marked = sink.dump_state()
    return marked


async def test_what_came_after_the_mark_is_cut_off(path: Path) -> None:
    assert isinstance(JsonlSink(path=str(path)), RememberingSink)
    state = await write(path, 1, 2, 3)
    with path.open("ab") as file:
        file.write(encode_all(build_rows(4))[:-20])
    await write(path, 2, state=state)
    assert path.read_bytes() == encode_all([*build_rows(1), *build_rows(2)])


async def test_without_a_state_nothing_is_cut_off(path: Path) -> None:
    await write(path, 1)
    sink = JsonlSink(path=str(path))
    assert msgspec.msgpack.decode(sink.dump_state()) is None
    await write(path, 2, state=sink.dump_state())
    assert path.read_bytes() == encode_all([*build_rows(1), *build_rows(2)])


async def test_a_mark_of_an_empty_file_empties_it(path: Path) -> None:
    async with JsonlSink(path=str(path)) as sink:
        state = sink.dump_state()
        await sink.export(build_rows(1))
    await write(path, 2, state=state)
    assert path.read_bytes() == encode_all(build_rows(2))


async def test_the_state_is_kept_until_the_file_was_opened(path: Path) -> None:
    state = await write(path, 1, 2)
    sink = JsonlSink(path=str(path))
    sink.load_state(state)
    assert sink.dump_state() == state
    await write(path, state=sink.dump_state())
    assert path.read_bytes() == encode_all(build_rows(1))


async def test_what_is_cut_off_is_kept_until_the_next_time(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = await write(path, 1, 2)
    await write(path, 3, state=state)
    cut = Path(f"{path}.cut")
    assert path.read_bytes() == encode_all(build_rows(1)) + encode_all(build_rows(3))
    assert cut.read_bytes() == encode_all(build_rows(2))
    assert cut.stat().st_mode & 0o777 & ~0o640 == 0
    assert [record.getMessage() for record in caplog.records] == [
        "rows without a mark are cut off; their windows come again"
    ]


@pytest.mark.parametrize("renamed", [1, 2])
async def test_a_file_that_was_renamed_after_the_mark_is_found(path: Path, renamed: int) -> None:
    numbers = range(1, 2 + renamed)
    state = await write(path, *numbers, max_bytes=1 if renamed > 1 else WINDOW_BYTES, keep=3)
    assert Path(f"{path}.{renamed}").exists()
    await write(path, state=state, keep=3)
    assert Path(f"{path}.{renamed}").read_bytes() == encode_all(build_rows(1))
    assert path.read_bytes() == b""
    cut = Path(f"{path}.cut")
    assert {file for file in path.parent.iterdir() if file.read_bytes()} == {Path(f"{path}.{renamed}"), cut}
    assert cut.read_bytes() == b"".join(encode_all(build_rows(number)) for number in numbers[1:])


async def test_a_file_that_was_emptied_after_the_mark_is_emptied_again(path: Path) -> None:
    state = await write(path, 1, 2, max_bytes=1, keep=0)
    await write(path, state=state, keep=0)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("left", [40, WINDOW_BYTES - 40])
async def test_a_file_that_lost_its_end_keeps_the_rest(path: Path, left: int) -> None:
    state = await write(path, 1)
    os.truncate(path, left)
    await write(path, state=state)
    assert (
        path.read_bytes()
        == encode_all(build_rows(1))[:left][: encode_all(build_rows(1))[:left].rfind(b"\n") + 1]
    )


async def test_a_file_that_someone_moved_away_leaves_its_successor_as_it_is(path: Path) -> None:
    state = await write(path, 1)
    path.rename(f"{path}-2026-11-21")
    path.write_text("someone's line\n")
    await write(path, 2, state=state)
    assert path.read_bytes() == b"someone's line\n" + encode_all(build_rows(2))


async def test_a_file_that_was_copied_and_put_back_is_the_same(path: Path) -> None:
    state = await write(path, 1, 2)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    await write(path, state=state)
    assert path.read_bytes() == encode_all(build_rows(1))


async def test_a_missing_file_is_begun_anew(path: Path) -> None:
    state = await write(path, 1)
    path.unlink()
    await write(path, 2, state=state)
    assert path.read_bytes() == encode_all(build_rows(2))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("max_bytes", [None, 3_000])
async def test_every_window_is_there_once_whenever_the_daemon_dies(
    tmp_path: Path, seed: int, max_bytes: int | None
) -> None:
    random, number = Random(seed), 0
    path = tmp_path / "a" / "out" / "windows.jsonl"
    path.parent.mkdir(parents=True)

    def build_sink(path: Path) -> JsonlSink:
        sink = JsonlSink(path=str(path), max_bytes=max_bytes, keep=50)
        sink.max_batch = 4
        return sink

    for death in range(6):
        sink = build_sink(path)
        life = Life(path.parents[1] / "state", serve(sink), random=draw(seed))
        await life.delivery.start()
        for _ in range(random.randint(0, 4)):
            await life.hand_over(build_window(random.randint(1, 12), start=60.0 * number))
            number += 1
            for _ in range(random.randint(0, 9)):
                await asyncio.sleep(0.001)
        await life.rest()
        with sink._file._lock:
            # What a SIGKILL leaves: the files themselves. This life goes on with copies, in vain.
            there = tmp_path / f"a{death}" / "out"
            shutil.copytree(life.directory, there.parent / "state")
            path.parent.rename(there)
            shutil.copytree(there, path.parent)
            if sink._file._descriptor is not None:
                os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), sink._file._descriptor)
            path = there / path.name
        await life.delivery.close(1.0)
        await life.outbox.close()
    async with living(path.parents[1] / "state", serve(build_sink(path))) as life:
        await life.hand_over(build_window(1, start=60.0 * number))
        await until(lambda: not life.delivery.ledgers["sink"].waiting)
        ledger = life.delivery.ledgers["sink"]
        assert ledger.closed == ledger.delivered
    files = [Path(f"{path}.{each}") for each in range(50, 0, -1) if Path(f"{path}.{each}").exists()] + [path]
    rows = [msgspec.json.decode(line) for file in files for line in file.read_bytes().splitlines()]
    seen = [(row["window_id"], row["name"]) for row in rows]
    assert len(seen) == len(set(seen)) == ledger.closed
    assert {row["window_id"] for row in rows} == {f"w{60 * each}" for each in range(number + 1)}
