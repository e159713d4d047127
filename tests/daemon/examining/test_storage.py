from pathlib import Path

import pytest

from aiokpl_metricsd.config import load
from aiokpl_metricsd.examining import storage
from aiokpl_metricsd.examining.finding import Outcome
from aiokpl_metricsd.examining.storage import Space
from aiokpl_metricsd.state import open_state
from aiokpl_metricsd.storing import segment

MIB = 1 << 20

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:25 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=100k
31 22 8:2 / /var/lib/with\\040space rw - xfs /dev/sdb rw
32 30 8:3 / /run/disk rw - ext4 /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib/metrics", "ext4"),
        ("/run/metrics", "tmpfs"),
        ("/running", "ext4"),
        ("/run/disk/state", "ext4"),
        ("/var/lib/with space/state", "xfs"),
    ],
)
def test_a_path_is_on_the_mount_that_holds_it(path: str, kind: str) -> None:
    assert storage.find_volume(MOUNTS, path) == kind


def test_mounts_that_say_nothing_say_nothing() -> None:
    assert storage.find_volume("", "/var") == ""
    assert storage.check_volume(Path("/var"), "").outcome is Outcome.OK


def test_memory_is_no_place_for_what_must_survive() -> None:
    finding = storage.check_volume(Path("/run/state"), "tmpfs")
    assert finding.outcome is Outcome.WARNING
    assert "put state_dir on a disk" in finding.advice


def test_space_is_judged_against_what_the_daemon_may_use() -> None:
    configuration = load(None, {})
    # The journal twice, the outbox, free pages, the log twice, and ballast.
    need = 2 * 32 * MIB + 256 * MIB + 16 * MIB + 2 * 16 * MIB + 4 * MIB
    assert storage.measure_need(configuration) == need
    assert storage.check_space(Space(need), configuration).outcome is Outcome.OK
    assert storage.check_space(Space(need - 1), configuration).outcome is Outcome.WARNING
    # What is there already needs no room any more.
    assert storage.check_space(Space(need - 50 * MIB, 50 * MIB), configuration).outcome is Outcome.OK
    assert storage.check_space(Space(4 * MIB), configuration).outcome is Outcome.FAILURE
    assert storage.check_space(Space(need, has_files=False), configuration).outcome is Outcome.FAILURE


def test_space_is_measured_where_the_directory_will_be(tmp_path: Path) -> None:
    space = storage.measure_space(tmp_path / "not" / "there")
    assert space.free_bytes > 0
    assert space.has_files
    (tmp_path / "file").write_bytes(bytes(MIB))
    assert storage.measure_space(tmp_path).used_bytes >= MIB


def test_a_directory_that_is_open_to_others_is_a_warning(tmp_path: Path) -> None:
    assert storage.check_directory(tmp_path / "state").message.endswith("is not there yet, and can be made")
    (tmp_path / "state").mkdir(mode=0o700)
    assert storage.check_directory(tmp_path / "state").outcome is Outcome.OK
    (tmp_path / "state").chmod(0o755)
    finding = storage.check_directory(tmp_path / "state")
    assert (finding.outcome, finding.advice[:10]) == (Outcome.WARNING, "chmod 0700")
    assert [*(tmp_path / "state").iterdir()] == []


def test_a_file_in_its_place_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert storage.check_directory(tmp_path / "state").outcome is Outcome.FAILURE


def test_a_disk_that_takes_nothing_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "try_to_write", lambda _: OSError(28, "No space left on device"))
    finding = storage.check_directory(tmp_path)
    assert (finding.outcome, finding.advice) == (Outcome.FAILURE, "make room on it")


@pytest.mark.asyncio
async def test_what_this_version_wrote_is_of_this_version_and_its_user_is_seen(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    assert storage.check_versions(directory).message == "nothing is kept there yet"
    state = open_state(str(directory), outbox_max_bytes=1 << 30)
    try:
        assert storage.check_versions(directory).message == "what is kept there is of this version"
        assert storage.check_lock(directory, has_daemon=True).outcome is Outcome.OK
        assert storage.check_lock(directory, has_daemon=False).outcome is Outcome.FAILURE
    finally:
        await state.close()
    assert (
        storage.check_lock(directory, has_daemon=False).message
        == "no daemon that can be seen from here uses it"
    )


@pytest.mark.asyncio
async def test_what_a_newer_version_or_another_application_wrote_is_a_failure(tmp_path: Path) -> None:
    state = open_state(str(tmp_path), outbox_max_bytes=1 << 30)
    await state.close()
    path = tmp_path / "outbox.sqlite3"
    whole = path.read_bytes()
    for offset, said in ((60, "newer than 1"), (68, "another application's")):
        changed = bytearray(whole)
        changed[offset : offset + 4] = (99).to_bytes(4, "big")
        path.write_bytes(changed)
        finding = storage.check_versions(tmp_path)
        assert (finding.outcome, said in finding.message) == (Outcome.FAILURE, True)
    path.write_bytes(b"not a database at all")
    assert storage.check_versions(tmp_path).outcome is Outcome.WARNING


def test_a_journal_of_a_newer_version_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    head = bytearray(segment.encode_head(7, 1))
    (tmp_path / "journal" / "1.segment").write_bytes(head)
    assert storage.check_versions(tmp_path).outcome is Outcome.OK
    head[8] = 2
    (tmp_path / "journal" / "1.segment").write_bytes(head)
    finding = storage.check_versions(tmp_path)
    assert finding.outcome is Outcome.FAILURE
    assert "version 2, newer than 1" in finding.message


def test_nothing_is_left_of_the_attempt_to_write(tmp_path: Path) -> None:
    assert storage.try_to_write(tmp_path) is None
    assert [*tmp_path.iterdir()] == []
