"""What was written comes back, up to the first byte that is wrong; a disk that takes no more is survived."""

import errno
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.journal import MAX_DEATHS, Journal, Record
from aiokpl_metricsd.storing import segment as segment_module
from aiokpl_metricsd.storing.segment import HEAD_BYTES, RECORD_BYTES, name_segment

STATE_ID = 0x1234_5678_9ABC_DEF0


_opened: list[Journal] = []


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Give back what journals that crashed have open."""
    yield
    while _opened:
        _opened.pop()._close_segment()


def open_journal(folder: Path, state_id: int = STATE_ID, *, fsync: bool = False) -> Journal:
    _opened.append(Journal(folder, state_id, fsync=fsync))
    return _opened[-1]


def restart(folder: Path, position: int = 0) -> tuple[Journal, list[Record]]:
    """Come back as the next start does: nothing of the last one was closed."""
    journal = open_journal(folder)
    return journal, list(journal.replay(position))


def fill(journal: Journal, *datagrams: bytes, now: float = 1.5, lane: bool = True) -> bool:
    for datagram in datagrams:
        journal.append(datagram, now, lane)
    return journal.write()


def read(folder: Path, position: int = 0) -> list[bytes]:
    return [record.datagram for record in restart(folder, position)[1]]


def segment_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what is written


def test_what_was_written_comes_back_in_order_with_its_time_and_its_way(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append(b"one", 1.25, False)
    journal.append(memoryview(b"two"), 2.5, True)
    assert journal.write()
    journal.append(b"x" * MAX_DATAGRAM_BYTES, 3.0, True)
    assert journal.write()
    assert restart(tmp_path)[1] == [
        Record(1.25, lane=False, datagram=b"one"),
        Record(2.5, lane=True, datagram=b"two"),
        Record(3.0, lane=True, datagram=b"x" * MAX_DATAGRAM_BYTES),
    ]


def test_a_datagram_is_copied_when_it_is_appended(tmp_path: Path) -> None:
    journal, buffer = open_journal(tmp_path), bytearray(b"before")
    journal.append(memoryview(buffer), 1.0, False)
    buffer[:] = b"after!"
    journal.write()
    assert read(tmp_path) == [b"before"]


def test_nothing_is_made_before_something_is_written(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "a" / "journal")
    assert segment_names(tmp_path / "a" / "journal") == []
    assert journal.write()
    assert journal.size_bytes == 0
    journal.append(b"x", 1.0, False)
    assert segment_names(tmp_path / "a" / "journal") == []
    journal.write()
    assert segment_names(tmp_path / "a" / "journal") == [name_segment(1)]


def test_folder_and_files_are_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    journal = open_journal(folder)
    fill(journal, b"x")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_folder_that_cannot_be_made_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="state_dir"):
        open_journal(tmp_path / "file" / "journal")


def test_much_that_is_appended_is_written_before_it_is_asked_for(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for _ in range(40):
        journal.append(bytes(60_000), 1.0, False)
    assert journal.size_bytes > 1_500_000
    assert journal.write()
    assert len(read(tmp_path)) == 40


def test_a_disk_that_fills_in_the_midst_of_a_turn_takes_nothing_behind_the_gap(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    with limit_file_size(100_000):
        for number in range(20):
            journal.append(bytes([number]) * 50_000, 1.0, False)
        assert not journal.write()
    assert read(tmp_path) == [bytes(50_000)]


def test_with_fsync_each_write_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    fill(open_journal(tmp_path / "without"), b"x")
    assert synced == []
    journal = open_journal(tmp_path / "with", fsync=True)
    # The head, then what was appended.
    assert fill(journal, b"x", b"y")
    assert len(synced) == 2
    assert read(tmp_path / "with") == [b"x", b"y"]


# ---- positions and sizes


def test_a_checkpoint_covers_all_that_came_before_it(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"one")
    assert (journal.position, position := journal.rotate()) == (1, 2)
    fill(journal, b"two")
    assert read(tmp_path, position) == [b"two"]


def test_what_was_appended_before_the_checkpoint_is_not_after_it(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append(b"one", 1.0, False)
    position = journal.rotate()
    fill(journal, b"two")
    assert read(tmp_path, position) == [b"two"]


def test_until_the_checkpoint_has_committed_all_is_replayed(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"one")
    journal.rotate()
    fill(journal, b"two")
    assert read(tmp_path) == [b"one", b"two"]


def test_what_no_checkpoint_covers_is_counted_in_bytes(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    record = RECORD_BYTES + 10
    fill(journal, bytes(10), bytes(10))
    assert journal.size_bytes == HEAD_BYTES + 2 * record
    position = journal.rotate()
    fill(journal, bytes(10))
    assert journal.size_bytes == 2 * HEAD_BYTES + 3 * record
    journal.forget_before(position)
    assert journal.size_bytes == HEAD_BYTES + record
    assert segment_names(tmp_path) == [name_segment(2)]
    again = open_journal(tmp_path)
    assert again.size_bytes == journal.size_bytes
    list(again.replay(position))
    fill(again, bytes(10))
    assert again.size_bytes == 2 * (HEAD_BYTES + record)
    again.forget_before(again.rotate())
    assert again.size_bytes == HEAD_BYTES
    assert again.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_a_segment_without_records_serves_the_next_checkpoint_too(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    assert [journal.rotate() for _ in range(3)] == [1, 1, 1]
    assert segment_names(tmp_path) == [name_segment(1)]


def test_each_start_opens_a_segment_of_its_own(tmp_path: Path) -> None:
    for number in range(1, 4):
        journal, records = restart(tmp_path)
        assert len(records) == number - 1
        assert journal.position == number
        fill(journal, b"x")
    assert segment_names(tmp_path) == [name_segment(number) for number in (1, 2, 3)]


def test_numbers_go_on_from_the_checkpoint_when_all_segments_are_gone(tmp_path: Path) -> None:
    journal, records = restart(tmp_path, position=17)
    assert (records, journal.position) == ([], 17)
    fill(journal, b"x")
    assert read(tmp_path, 17) == [b"x"]


def test_segments_that_the_last_start_could_not_remove_go_with_the_next(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"one")
    position = journal.rotate()
    fill(journal, b"two")
    assert read(tmp_path, position) == [b"two"]
    assert name_segment(1) not in segment_names(tmp_path)


def test_a_segment_that_cannot_be_removed_no_longer_counts_and_goes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"one")
    position = journal.rotate()

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        journal.forget_before(position)
    assert journal.size_bytes == HEAD_BYTES
    assert "cannot be removed" in caplog.text
    journal.forget_before(position)
    assert segment_names(tmp_path) == [name_segment(2)]


def test_a_large_segment_is_removed_in_slices_between_which_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_module, "_REMOVED_BYTES", 1_000)
    journal = open_journal(tmp_path)
    fill(journal, bytes(3_000), b"small")
    position = journal.rotate()
    sizes: list[int] = []
    for number, _ in enumerate(journal.forget_before_sliced(position)):
        sizes.append((tmp_path / name_segment(1)).stat().st_size)
        fill(journal, b"%d" % number)
        assert journal.size_bytes == HEAD_BYTES + len(sizes) * (RECORD_BYTES + 1)
    whole = HEAD_BYTES + 2 * RECORD_BYTES + 3_005
    assert sizes == [whole - 1_000, whole - 2_000, whole - 3_000]
    assert segment_names(tmp_path) == [name_segment(2)]
    assert read(tmp_path, position) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_start_after_a_death_between_two_slices_reads_nothing_of_what_was_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: int
) -> None:
    monkeypatch.setattr(segment_module, "_REMOVED_BYTES", 1_000)
    journal = open_journal(tmp_path)
    fill(journal, bytes(1_000), bytes(1_000), bytes(1_000))
    position = journal.rotate()
    fill(journal, b"kept")
    removing = journal.forget_before_sliced(position)
    for _ in range(slices):
        next(removing)
    again, records = restart(tmp_path, position)
    assert [record.datagram for record in records] == [b"kept"]
    assert again.segments_damaged == 0
    assert segment_names(tmp_path) == [name_segment(2)]


def test_a_journal_that_is_written_is_not_replayed(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"x")
    with pytest.raises(RuntimeError, match="before"):
        journal.replay(0)


def test_what_was_appended_is_written_at_the_end(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append(b"last", 1.0, False)
    journal.close()
    journal.close()
    assert read(tmp_path) == [b"last"]


# ---- damage


@given(cut=st.integers(0, 200), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_torn_tail_costs_its_record_alone(
    tmp_path_factory: pytest.TempPathFactory, cut: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    datagrams = data.draw(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5))
    fill(open_journal(folder), *datagrams)
    path = folder / name_segment(1)
    size = max(0, path.stat().st_size - cut)
    os.truncate(path, size)
    whole, offset = 0, HEAD_BYTES
    for datagram in datagrams:
        offset += RECORD_BYTES + len(datagram)
        whole += offset <= size
    journal, records = restart(folder)
    assert [record.datagram for record in records] == datagrams[:whole]
    fill(journal, b"next")
    assert read(folder) == [*datagrams[:whole], b"next"]
    shutil.rmtree(folder)


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_wrong_byte_anywhere_ends_its_segment_and_not_the_replay(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("wrong")
    journal = open_journal(folder)
    datagrams = [b"a" * 20, b"b" * 30, b"c" * 5]
    fill(journal, *datagrams)
    journal.rotate()
    fill(journal, b"second")
    path = folder / name_segment(1)
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] ^= flip
    path.write_bytes(content)
    whole, offset = 0, HEAD_BYTES
    for datagram in datagrams:
        offset += RECORD_BYTES + len(datagram)
        whole += offset <= place
    try:
        found = read(folder)
    except ConfigurationError:
        # The version: a later one it seems.
        assert 8 <= place < 12
        return
    if place < HEAD_BYTES:
        assert found == [b"second"]
    else:
        assert found == [*datagrams[:whole], b"second"]
    shutil.rmtree(folder)


def test_damage_is_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(open_journal(tmp_path), b"a" * 20, b"b" * 20)
    path = tmp_path / name_segment(1)
    content = bytearray(path.read_bytes())
    content[HEAD_BYTES + RECORD_BYTES] ^= 1
    path.write_bytes(content)
    journal, records = restart(tmp_path)
    assert (records, journal.segments_damaged) == ([], 1)
    (said,) = caplog.records
    assert vars(said)["fields"] == {
        "segment": 1,
        "offset": HEAD_BYTES,
        "unread_bytes": 2 * (RECORD_BYTES + 20),
        "is_torn": False,
    }


def test_a_tail_of_zeros_as_a_power_cut_leaves_it_is_no_record(tmp_path: Path) -> None:
    fill(open_journal(tmp_path), b"a")
    with (tmp_path / name_segment(1)).open("ab") as file:
        file.write(bytes(4_096))
    assert read(tmp_path) == [b"a"]


def test_a_segment_whose_start_died_before_its_head_was_whole_goes(tmp_path: Path) -> None:
    for size in (0, 11, HEAD_BYTES - 1):
        fill(open_journal(tmp_path / str(size)), b"a")
        os.truncate(tmp_path / str(size) / name_segment(1), size)
        journal, records = restart(tmp_path / str(size))
        assert (records, journal.position) == ([], 2)
        assert segment_names(tmp_path / str(size)) == []


def test_what_is_no_segment_is_set_aside_or_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name_segment(3)).write_bytes(b"no segment at all" * 10)
    (tmp_path / "notes.txt").write_bytes(b"the operator's")
    journal, records = restart(tmp_path)
    assert (records, journal.position) == ([], 4)
    assert segment_names(tmp_path) == [f"{name_segment(3)}.damaged", "notes.txt"]
    assert "set aside" in caplog.text


def test_a_segment_of_another_state_is_set_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(open_journal(tmp_path, state_id=7), b"theirs")
    journal, records = restart(tmp_path)
    assert (records, journal.size_bytes) == ([], 0)
    assert segment_names(tmp_path) == [f"{name_segment(1)}.of-{7:016x}"]
    assert "another state" in caplog.text
    # Its number is not used again, so that nothing is ever in its way.
    fill(journal, b"ours")
    assert segment_names(tmp_path)[1] == name_segment(2)


def test_a_segment_under_anothers_name_is_not_replayed(tmp_path: Path) -> None:
    fill(open_journal(tmp_path), b"one")
    shutil.copy(tmp_path / name_segment(1), tmp_path / name_segment(2))
    assert read(tmp_path) == [b"one"]


def test_a_segment_of_a_later_version_stops_the_start_and_says_what_to_do(tmp_path: Path) -> None:
    fill(open_journal(tmp_path), b"one")
    path = tmp_path / name_segment(1)
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"version 2.*start the daemon that wrote it"):
        open_journal(tmp_path)
    assert path.read_bytes() == content


def test_a_segment_that_cannot_be_read_costs_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"one")
    journal.rotate()
    fill(journal, b"two")
    journal = open_journal(tmp_path)
    (tmp_path / name_segment(1)).unlink()
    assert [record.datagram for record in journal.replay(0)] == [b"two"]
    assert journal.segments_damaged == 1
    assert "cannot be read" in caplog.text
    (tmp_path / name_segment(9)).mkdir()
    assert open_journal(tmp_path).position == 10


# ---- disks that take no more


@contextmanager
def limit_file_size(size_bytes: int) -> Generator[None, None, None]:
    """Let no file grow beyond; a write that would is short, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(0, 300),
)
@settings(max_examples=60, deadline=None)
def test_after_a_short_write_whole_records_alone_are_there(
    tmp_path_factory: pytest.TempPathFactory, turns: list[list[int]], room: int
) -> None:
    folder = tmp_path_factory.mktemp("short")
    journal, sent, kept = open_journal(folder), 0, HEAD_BYTES
    with limit_file_size(room):
        for turn in turns:
            datagrams = [bytes([(sent + index) % 256]) * size for index, size in enumerate(turn)]
            sent += len(turn)
            kept += sum(RECORD_BYTES + size for size in turn)
            assert fill(journal, *datagrams) == journal.is_writable == (kept <= room)
    # What is counted is what is there.
    assert journal.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    position = journal.rotate()
    assert journal.is_writable
    assert fill(journal, b"after")
    journal_again, records = restart(folder)
    sizes = [size for turn in turns for size in turn]
    found = [len(record.datagram) for record in records[:-1]]
    assert found == sizes[: len(found)]
    assert journal_again.segments_damaged == 0
    assert read(folder, position) == [b"after"]
    shutil.rmtree(folder)


def test_a_full_disk_is_said_once_and_over_with_the_next_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    journal = open_journal(tmp_path)
    fill(journal, b"one")
    with limit_file_size(journal.size_bytes + 30):
        assert not fill(journal, b"x" * 100)
        assert not journal.is_writable
        assert journal.last_error == os.strerror(errno.EFBIG)
        assert not fill(journal, b"y")
        assert not journal.write()
    # There would be room again; but a gap in the midst of the journal must not be.
    assert not fill(journal, b"z")
    position = journal.rotate()
    assert (position, journal.is_writable) == (2, True)
    assert journal.write()
    assert fill(journal, b"two")
    assert read(tmp_path) == [b"one", b"two"]
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "the journal cannot be written",
        "the journal is written again",
    ]


def test_what_was_lost_between_two_writes_is_owned_up_to_after_a_rotation(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    with limit_file_size(10):
        journal.append(b"x", 1.0, True)
        assert journal.rotate() == 2
    assert not journal.is_writable
    assert journal.rotate() == 3
    assert journal.is_writable
    # The frame that is about to be acknowledged is in memory only.
    assert not journal.write()
    assert journal.write()


def test_it_is_whole_again_when_a_checkpoint_has_what_was_in_memory_only(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    before = journal.rotate()
    fill(journal, b"one")
    assert journal.is_whole
    with limit_file_size(journal.size_bytes + 30):
        fill(journal, b"x" * 100)
        assert not journal.is_whole
    # It is written again, with a gap.
    position = journal.rotate()
    assert fill(journal, b"two")
    journal.forget_before(before)
    assert not journal.is_whole
    journal.forget_before(position)
    assert journal.is_whole


def test_a_segment_that_cannot_be_opened_takes_its_number_and_leaves_no_file(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"one")
    with limit_file_size(HEAD_BYTES - 1):
        assert journal.rotate() == 2
        assert not journal.is_writable
        assert segment_names(tmp_path) == [name_segment(1)]
        assert journal.rotate() == 3
    assert journal.rotate() == 4
    fill(journal, b"two")
    journal.forget_before(4)
    assert read(tmp_path, 4) == [b"two"]


def test_a_device_that_does_not_confirm_is_as_good_as_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path, fsync=True)
    fill(journal, b"one")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        assert not fill(journal, b"two")
    assert journal.last_error == os.strerror(errno.EIO)
    journal.rotate()
    assert fill(journal, b"three")
    # It may be there or not; here it is, and it is whole.
    assert read(tmp_path) == [b"one", b"two", b"three"]


def test_a_file_that_cannot_be_cut_back_ends_at_its_torn_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"one")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "truncate", fail)
    with limit_file_size(journal.size_bytes + 30):
        assert not fill(journal, b"x" * 100)
    journal.rotate()
    fill(journal, b"two")
    assert journal.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert read(tmp_path) == [b"one", b"two"]


def test_a_write_that_takes_nothing_does_not_go_on_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)
    fill(journal, b"one")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda *_: 0)
        assert not fill(journal, b"two")
    assert journal.last_error == os.strerror(errno.ENOSPC)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 256 KiB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid():
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_nothing_that_was_confirmed_is_lost(small_disk: Path) -> None:
    folder = small_disk / "journal"
    journal = open_journal(folder)
    confirmed: list[bytes] = []
    for number in range(20):
        datagram = bytes([number]) * 30_000
        if fill(journal, datagram):
            confirmed.append(datagram)
    assert 0 < len(confirmed) < 20
    assert journal.last_error == os.strerror(errno.ENOSPC)
    assert read(folder) == confirmed
    # Another file takes what is left; then there is space again.
    filler = small_disk / "filler"
    filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
    journal.rotate()
    assert not fill(journal, b"no room")
    assert read(folder) == confirmed
    filler.unlink()
    position = journal.rotate()
    assert fill(journal, b"room again")
    assert read(folder) == [*confirmed, b"room again"]
    assert read(folder, position) == [b"room again"]


def test_on_a_read_only_disk_the_daemon_starts_and_says_so(small_disk: Path) -> None:
    folder = small_disk / "journal"
    journal = open_journal(folder)
    fill(journal, b"one")
    journal.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    journal, records = restart(folder)
    assert [record.datagram for record in records] == [b"one"]
    assert not fill(journal, b"two")
    assert journal.last_error == os.strerror(errno.EROFS)
    journal.forget_before(journal.rotate())
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    journal.forget_before(journal.rotate())
    assert fill(journal, b"three")
    assert read(folder) == [b"three"]


# ---- records that kill


def die_at(folder: Path, datagram: bytes) -> list[bytes]:
    """Replay until a record kills the start; return what came before."""
    replayed: list[bytes] = []
    # The generator is not closed in a process that is killed; here it is, which must make no difference.
    for record in open_journal(folder).replay(0):
        if record.datagram == datagram:
            return replayed
        replayed.append(record.datagram)
    return [*replayed, b"alive"]


def test_a_record_that_three_starts_in_a_row_died_at_is_set_aside_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(open_journal(tmp_path), b"one", b"poison", b"two")
    for _ in range(MAX_DEATHS):
        assert die_at(tmp_path, b"poison") == [b"one"]
        assert "replaying" in segment_names(tmp_path)
    journal, records = restart(tmp_path)
    assert [record.datagram for record in records] == [b"one", b"two"]
    assert journal.records_set_aside == 1
    assert "replaying" not in segment_names(tmp_path)
    (aside,) = tmp_path.glob("*.datagram")
    assert aside.read_bytes() == b"poison"
    assert [vars(each)["fields"]["file"] for each in caplog.records if each.levelno == logging.ERROR] == [
        str(aside)
    ]
    # It stays skipped for as long as its segment is there.
    journal, records = restart(tmp_path)
    assert [record.datagram for record in records] == [b"one", b"two"]
    assert journal.records_set_aside == 0


def test_deaths_at_different_records_or_with_a_whole_replay_between_set_nothing_aside(tmp_path: Path) -> None:
    fill(open_journal(tmp_path), b"one", b"two")
    for _ in range(MAX_DEATHS):
        die_at(tmp_path, b"one")
        die_at(tmp_path, b"two")
    assert read(tmp_path) == [b"one", b"two"]
    for _ in range(2):
        for _ in range(MAX_DEATHS - 1):
            die_at(tmp_path, b"two")
        assert read(tmp_path) == [b"one", b"two"]


def test_two_records_that_kill_are_both_set_aside_in_the_end(tmp_path: Path) -> None:
    fill(open_journal(tmp_path), b"bad", b"good", b"worse")
    for _ in range(MAX_DEATHS):
        die_at(tmp_path, b"bad")
    for _ in range(MAX_DEATHS):
        assert die_at(tmp_path, b"worse") == [b"good"]
    assert read(tmp_path) == [b"good"]


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(b"x" * 24), lambda path: os.truncate(path, 7)]
)
def test_a_damaged_note_accuses_no_record(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    fill(open_journal(tmp_path), b"one")
    for _ in range(MAX_DEATHS):
        die_at(tmp_path, b"one")
    spoil(tmp_path / "replaying")
    assert read(tmp_path) == [b"one"]


def test_where_nothing_can_be_noted_the_replay_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(open_journal(tmp_path), b"one", b"two")
    (tmp_path / "replaying").mkdir()
    assert read(tmp_path) == [b"one", b"two"]
    assert "will not be known" in caplog.text
    (tmp_path / "replaying").rmdir()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)
    assert read(tmp_path) == [b"one", b"two"]


def test_a_record_whose_file_cannot_be_made_is_skipped_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(open_journal(tmp_path), b"poison", b"one")
    for _ in range(MAX_DEATHS):
        die_at(tmp_path, b"poison")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fail)
    assert read(tmp_path) == [b"one"]


KILLED = """
import os, signal, sys
from pathlib import Path
from aiokpl_metricsd.journal import Journal
journal = Journal(Path(sys.argv[1]), int(sys.argv[2]))
for record in journal.replay(0):
    if record.datagram == b"poison":
        os.kill(os.getpid(), signal.SIGKILL)
journal.append(b"started", 1.0, False)
assert journal.write()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_starts_that_are_killed_leave_the_note_and_what_was_written(tmp_path: Path) -> None:
    fill(open_journal(tmp_path), b"one", b"poison")
    for _ in range(MAX_DEATHS + 1):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(STATE_ID)], check=False)
        assert done.returncode == -signal.SIGKILL
    assert read(tmp_path) == [b"one", b"started"]


# ---- any order of things


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 80)),
            st.tuples(st.just("write"), st.none()),
            st.tuples(st.just("checkpoint"), st.booleans()),
            st.tuples(st.just("crash"), st.none()),
            st.tuples(st.just("disk"), st.sampled_from([HEAD_BYTES - 1, 100, 300, resource.RLIM_INFINITY])),
        ),
        max_size=40,
    )
)
def test_whatever_was_confirmed_is_in_the_checkpoint_or_replayed_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    journal, position = open_journal(folder), 0
    list(journal.replay(0))
    # Since the last committed checkpoint: what was written for certain, and what may be there.
    confirmed: list[bytes] = []
    pending: list[bytes] = []
    since: list[bytes] = []
    number, limit = 0, resource.RLIM_INFINITY
    for kind, content in steps:
        with limit_file_size(limit):
            if kind == "append":
                number += 1
                datagram = number.to_bytes(2, "big") * content
                journal.append(datagram, float(number), False)
                pending.append(datagram)
                since.append(datagram)
            elif kind == "write":
                if journal.write():
                    confirmed += pending
                pending = []
            elif kind == "checkpoint":
                journal.write()
                pending = []
                sealed = journal.rotate()
                if content:
                    position, confirmed, since = sealed, [], []
                    journal.forget_before(position)
            elif kind == "disk":
                limit = content
        if kind == "crash":
            journal = open_journal(folder)
            replayed = [record.datagram for record in journal.replay(position)]
            assert set(confirmed) <= set(replayed) <= set(since)
            assert replayed == sorted(replayed)
            pending, confirmed, since = [], replayed, list(replayed)
        assert journal.size_bytes == sum(
            path.stat().st_size for path in folder.iterdir() if int(path.name[:16]) >= position
        )
    shutil.rmtree(folder)
