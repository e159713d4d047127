import asyncio
import logging
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import which

import pytest

from aiokpl_metricsd.errors import ConfigurationError, LostPartError, StoreError
from aiokpl_metricsd.outbox import Cut, Mark, Outbox, SinkAccount
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.ballast import BALLAST_BYTES
from aiokpl_metricsd.storing.database import VERSION
from tests.daemon.outbox_steps import MAX_BYTES, build_sealed, build_snapshots, mark

ACCOUNT = SinkAccount(b"ledger")
DATABASE = "outbox.sqlite3"
LOGGER = "aiokpl_metricsd.outbox"


def build_random(count: int) -> list[MetricSnapshot]:
    """Return snapshots that no compression makes smaller than about 200 bytes each."""
    return [MetricSnapshot(os.urandom(200).hex(), 1, 1.0, 1.0, 1.0) for _ in range(count)]


async def commit(outbox: Outbox, *batches: list[MetricSnapshot], position: int = 1) -> int:
    """Store a window for the sink `a` and return its number."""
    committed = await outbox.commit(
        build_sealed(position), [Cut("a", "d-1", 120.0, batches)], {"a": ACCOUNT}, {}
    )
    return committed.stored[0].number


def open_outbox(directory: Path) -> Outbox:
    return Outbox.open(directory, max_bytes=MAX_BYTES)


async def fill(directory: Path, count: int = 2_500) -> None:
    """Make an outbox with one window."""
    outbox = open_outbox(directory)
    await commit(outbox, build_snapshots(count))
    await outbox.close()


async def use(outbox: Outbox) -> None:
    """Make sure that an outbox takes a window and gives it back."""
    number = await commit(outbox, build_snapshots(3))
    assert await outbox.load(number, "a", 0) == build_snapshots(3)
    await outbox.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = which("mount")
    if mount is None:
        pytest.skip("there is no mount")
    command = [mount, "-t", "tmpfs", "-o", "size=24m", "none", str(disk)]
    if subprocess.run(command, capture_output=True, check=False, timeout=30).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, timeout=30)


def take_all_space(disk: Path) -> Path:
    """Fill the disk to its last byte; return the file that does."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return filler


@pytest.mark.asyncio
async def test_on_a_full_disk_marks_go_through_and_commits_do_when_there_is_space(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    state = small_disk / "state"
    ballast = state / "ballast"
    outbox = open_outbox(state)
    number = await commit(outbox, *(build_random(1_000) for _ in range(5)))
    assert ballast.stat().st_size == BALLAST_BYTES
    filler = take_all_space(small_disk)
    size_bytes = outbox.size_bytes
    for _ in range(2):
        with pytest.raises(StoreError, match="full"):
            await commit(outbox, build_random(60_000), position=2)
        assert outbox.is_failing
        assert outbox.size_bytes == size_bytes
    assert not ballast.exists()
    for part in range(5):
        await outbox.attempt("a", number, part)
        await outbox.settle("a", mark(SinkAccount(b"%d" % part), Mark(number, part)))
    assert outbox.size_bytes == 0
    assert not outbox.is_failing
    filler.unlink()
    number = await commit(outbox, build_random(1_000), position=3)
    assert ballast.stat().st_size == BALLAST_BYTES
    await outbox.close()
    take_all_space(small_disk)
    outbox = open_outbox(state)
    assert outbox.recovered.position == 3
    await outbox.settle("a", mark(ACCOUNT, Mark(number, 0)))
    assert outbox.size_bytes == 0
    await outbox.close()
    said = [record.message for record in caplog.records]
    assert said == ["the outbox cannot be written: windows wait in memory", "the outbox is written again"]


@pytest.mark.asyncio
async def test_a_process_that_dies_on_a_full_disk_leaves_what_was_committed(small_disk: Path) -> None:
    outbox = open_outbox(small_disk)
    number = await commit(outbox, build_random(1_000))
    take_all_space(small_disk)
    with pytest.raises(StoreError):
        await commit(outbox, build_random(60_000), position=2)
    # As a SIGKILL leaves it: nothing is written any more, and the lock goes.
    copy = small_disk.parent / "copy"
    copy.mkdir()
    for name in (DATABASE, f"{DATABASE}-wal"):
        (copy / name).write_bytes((small_disk / name).read_bytes())
    await outbox.close()
    outbox = open_outbox(copy)
    assert outbox.recovered.position == 1
    assert len(await outbox.load(number, "a", 0)) == 1_000
    await use(outbox)


@pytest.mark.asyncio
async def test_a_read_only_disk_is_refused_at_the_start(small_disk: Path) -> None:
    await fill(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=30)  # noqa: ASYNC221 - a test
    with pytest.raises(ConfigurationError, match="Read-only"):
        open_outbox(small_disk)
    with pytest.raises(ConfigurationError, match="Read-only"):
        open_outbox(small_disk / "new")


@pytest.mark.asyncio
async def test_without_space_for_the_first_database_the_start_says_so(small_disk: Path) -> None:
    take_all_space(small_disk)
    with pytest.raises(ConfigurationError, match="state_dir"):
        open_outbox(small_disk / "state")


@pytest.mark.asyncio
async def test_a_disk_that_turns_read_only_fails_each_call_and_is_shown(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    number = await commit(outbox, build_snapshots(2))
    connection = outbox._store._connection
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="readonly"):
        await commit(outbox, build_snapshots(2))
    with pytest.raises(StoreError, match="readonly"):
        await outbox.settle("a", mark(ACCOUNT, Mark(number, 0)))
    assert (outbox.is_failing, outbox.failures) == (True, 2)
    assert "readonly" in outbox.last_error
    assert await outbox.load(number, "a", 0) == build_snapshots(2)
    connection.execute("PRAGMA query_only = OFF")
    await use(outbox)
    assert not outbox.is_failing


@pytest.mark.asyncio
async def test_at_a_quota_nothing_is_changed_and_the_ballast_comes_back(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    connection = outbox._store._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 50}")
    with pytest.raises(StoreError, match="full"):
        await commit(outbox, build_random(2_000), position=2)
    assert not (tmp_path / "ballast").exists()
    assert (outbox.size_bytes, outbox.is_failing) == (0, True)
    await commit(outbox, build_snapshots(10))
    assert (tmp_path / "ballast").exists()
    await outbox.close()
    outbox = open_outbox(tmp_path)
    assert outbox.recovered.position == 1
    assert [each.counts for each in outbox.recovered.sinks["a"].windows] == [(10,)]
    await outbox.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="state_dir"):
        open_outbox(tmp_path)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError, match="state_dir"):
            open_outbox(path)


@pytest.mark.asyncio
async def test_a_database_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"newer version \(2, this is 1\).*state_dir"):
            open_outbox(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        assert connection.execute("SELECT count(*) FROM windows").fetchone() == (1,)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.close()
    await use(open_outbox(tmp_path))


@pytest.mark.parametrize("application_id", [0, 1234])
def test_another_applications_database_is_refused_and_not_touched(
    tmp_path: Path, application_id: int
) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("CREATE TABLE theirs (value)")
        connection.execute(f"PRAGMA application_id = {application_id}")
    connection.close()
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(ConfigurationError, match="another application"):
        open_outbox(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == before


def test_a_database_that_somebody_reads_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(fill(tmp_path))
    reader = sqlite3.connect(tmp_path / DATABASE)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM windows").fetchall()
    monkeypatch.setattr("aiokpl_metricsd.storing.database._LOCKED_S", 0.01)
    with pytest.raises(ConfigurationError, match="locked"):
        open_outbox(tmp_path)
    reader.close()
    asyncio.run(use(open_outbox(tmp_path)))


def damage_header(file: Path) -> None:
    file.write_bytes(b"no database at all" * 1_000)


def damage_pages(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for start in range(4_096, len(data), 4_096):
        data[start : start + 64] = os.urandom(64)
    file.write_bytes(data)


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 // 4_096 * 4_096)


@pytest.mark.parametrize("damage", [damage_header, damage_pages, cut_off])
def test_a_damaged_database_is_set_aside_and_begun_anew(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(damage)
    asyncio.run(fill(tmp_path))
    outbox = open_outbox(tmp_path)
    state_id = outbox.state_id
    asyncio.run(outbox.close())
    for _ in range(2):
        damage(tmp_path / DATABASE)
        damaged = (tmp_path / DATABASE).read_bytes()
        outbox = open_outbox(tmp_path)
        aside = tmp_path / f"{DATABASE}.damaged"
        assert outbox.set_aside == aside
        # SQLite counts the opening in the first page's header.
        assert aside.read_bytes()[4_096:] == damaged[4_096:]
        assert outbox.state_id != state_id
        assert (outbox.recovered.ledger, outbox.recovered.sinks) == (None, {})
        asyncio.run(use(outbox))
        asyncio.run(use(open_outbox(tmp_path)))
    assert [record.levelname for record in caplog.records] == ["CRITICAL"] * 2


@pytest.mark.asyncio
async def test_damage_that_is_found_at_work_is_looked_for_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the database were large.
    monkeypatch.setattr("aiokpl_metricsd.storing.database._CHECKED_BYTES", 0)
    await fill(tmp_path)
    file, marker = tmp_path / DATABASE, tmp_path / f"{DATABASE}-check"
    connection = sqlite3.connect(file)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'blobs'").fetchone()
    connection.close()
    data = bytearray(file.read_bytes())
    data[(page - 1) * 4_096 : page * 4_096] = os.urandom(4_096)
    file.write_bytes(data)
    outbox = open_outbox(tmp_path)
    assert outbox.set_aside is None
    with pytest.raises(StoreError, match="malformed"):
        await outbox.load(1, "a", 0)
    assert outbox.is_failing
    assert marker.exists()
    await outbox.close()
    outbox = open_outbox(tmp_path)
    assert outbox.set_aside is not None
    assert not marker.exists()
    marker.touch()
    await outbox.close()
    outbox = open_outbox(tmp_path)
    assert (outbox.set_aside, marker.exists()) == (None, False)
    await use(outbox)


@pytest.mark.asyncio
async def test_a_damaged_blob_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox = open_outbox(tmp_path)
    batches = [build_snapshots(2_000), build_snapshots(10)]
    cuts = [Cut("a", "d-1", 120.0, tuple(batches))]
    await outbox.commit(build_sealed(1), cuts, {}, {"a": build_snapshots(4)})
    await outbox.close()
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        # Those that are held come first, then the second blob of the first batch, and the first open part.
        connection.execute("UPDATE blobs SET data = zeroblob(100) WHERE id IN (1, 3)")
        connection.execute("UPDATE opened_blobs SET data = x'00' WHERE id = 1")
    connection.close()
    outbox = open_outbox(tmp_path)
    assert outbox.set_aside is None
    assert outbox.recovered.sinks["a"].merging == []
    assert outbox.recovered.opened[0].blobs == (b"111",)
    with pytest.raises(LostPartError, match="damaged"):
        await outbox.load(1, "a", 0)
    assert not outbox.is_failing
    assert await outbox.load(1, "a", 1) == batches[1]
    await outbox.settle("a", mark(ACCOUNT, Mark(1, 0)))
    await use(outbox)
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert all("damaged and left out" in each for each in said)


@pytest.mark.asyncio
async def test_a_write_ahead_log_without_its_database_is_not_replayed(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    await commit(outbox, build_snapshots(10))
    log = (tmp_path / f"{DATABASE}-wal").read_bytes()
    await outbox.close()
    (tmp_path / DATABASE).unlink()
    (tmp_path / f"{DATABASE}-wal").write_bytes(log)
    outbox = open_outbox(tmp_path)
    assert outbox.recovered.sinks == {}
    await use(outbox)


@pytest.mark.asyncio
async def test_space_that_is_not_needed_goes_back_to_the_disk(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox._store._database._kept_free_pages = 10
    number = await commit(outbox, build_random(5_000), build_snapshots(10))
    full = outbox._store._connection.execute("PRAGMA page_count").fetchone()[0]
    await outbox.settle("a", mark(ACCOUNT, Mark(number, 0)))
    await outbox.settle("a", mark(ACCOUNT, Mark(number, 1)))
    assert outbox._store._connection.execute("PRAGMA page_count").fetchone()[0] < full / 2
    await outbox.close()
