import os
from pathlib import Path

from aiokpl_metricsd.storing.ballast import Ballast


def test_it_takes_up_its_space_until_it_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "ballast"
    ballast = Ballast(path, size_bytes=100_000)
    assert not ballast.is_there
    assert not ballast.drop()
    ballast.restore()
    assert path.stat().st_size == 100_000
    assert path.stat().st_blocks * 512 >= 100_000
    again = Ballast(path, size_bytes=100_000)
    assert again.is_there
    assert again.drop()
    assert not path.exists()
    assert not again.drop()
    # Somebody removed it: there is nothing to give up.
    assert not ballast.drop()


def test_it_is_not_made_where_there_is_hardly_room(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    ballast = Ballast(tmp_path / "ballast", size_bytes=status.f_bavail * status.f_frsize // 2)
    ballast.restore()
    assert not ballast.is_there
    assert not (tmp_path / "ballast").exists()


def test_one_of_another_size_is_made_whole(tmp_path: Path) -> None:
    path = tmp_path / "ballast"
    path.write_bytes(b"half")
    ballast = Ballast(path, size_bytes=100_000)
    ballast.restore()
    assert path.stat().st_size == 100_000
