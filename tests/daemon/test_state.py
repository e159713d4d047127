"""The state directory: outbox and journal open together or not at all; the check sees it beforehand."""

import os
from pathlib import Path

import pytest

from aiokpl_metricsd.errors import ConfigurationError, StateInUseError
from aiokpl_metricsd.state import State, check_state_dir, open_state

OUTBOX_BYTES = 16 << 20


def open_at(path: Path) -> State:
    return open_state(str(path), outbox_max_bytes=OUTBOX_BYTES)


@pytest.mark.asyncio
async def test_a_directory_is_made_for_its_owner_alone_and_keeps_its_identity(tmp_path: Path) -> None:
    path = tmp_path / "some" / "state"
    state = open_at(path)
    identity = state.outbox.state_id
    await state.close()
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "journal").stat().st_mode & 0o777 == 0o700
    state = open_at(path)
    assert state.outbox.state_id == identity
    await state.close()


@pytest.mark.asyncio
async def test_one_daemon_at_a_time(tmp_path: Path) -> None:
    state = open_at(tmp_path)
    with pytest.raises(StateInUseError, match="another daemon uses it; stop it, or set state_dir"):
        open_at(tmp_path)
    await state.close()
    await open_at(tmp_path).close()


@pytest.mark.asyncio
async def test_a_journal_that_cannot_be_used_gives_the_directory_back(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("no directory")
    with pytest.raises(ConfigurationError, match="journal cannot be used"):
        open_at(tmp_path)
    (tmp_path / "journal").unlink()
    await open_at(tmp_path).close()


@pytest.mark.parametrize("below", ["file", "file/deeper/still", "\0", "n" * 300])
def test_a_directory_that_cannot_be_made_is_one_line_and_the_check_has_the_same(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("")
    lines: set[str] = set()
    for refuse in (lambda path: open_at(Path(path)), check_state_dir):
        with pytest.raises(ConfigurationError, match=r"state_dir: .* cannot be made: .") as caught:
            refuse(str(tmp_path / below))
        lines.add(str(caught.value))
    (line,) = lines
    assert line.isprintable()


@pytest.mark.parametrize("below", ["", "some/where/new"])
def test_the_check_of_a_directory_makes_nothing(tmp_path: Path, below: str) -> None:
    check_state_dir(str(tmp_path / below))
    check_state_dir(None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_the_check_knows_a_directory_that_is_there(tmp_path: Path) -> None:
    await open_at(tmp_path).close()
    check_state_dir(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_the_check_sees_where_this_user_may_not_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        check_state_dir(str(tmp_path / "state"))


@pytest.mark.asyncio
async def test_whatever_the_umask_nothing_in_it_is_open_to_others(tmp_path: Path) -> None:
    path = tmp_path / "state"
    before = os.umask(0)
    try:
        state = open_at(path)
        state.journal.append(b"x", 0.0, lane=False)
        state.journal.write()
        opened = {each.name: each.stat().st_mode & 0o077 for each in (path, *path.rglob("*"))}
        await state.close()
    finally:
        os.umask(before)
    assert len(opened) >= 5
    assert {name for name, mode in opened.items() if mode} == set()


@pytest.mark.parametrize("name", ["lock", "outbox.sqlite3"])
def test_a_link_in_place_of_a_file_of_its_own_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    (path / name).symlink_to(victim)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        open_at(path)
    assert victim.read_text() == "precious"
