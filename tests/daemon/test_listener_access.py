"""Who may write to the socket: mode and group, from the first moment, whatever others put in its place."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from aiokpl_metricsd import listener as module
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.listener import listen, listen_beside
from tests.support.stranger import needs_root, send_as


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of a short name, which everybody may enter."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@needs_root
@pytest.mark.parametrize("name", ["s", "s.lane"])
def test_without_a_group_the_socket_has_that_of_its_directory(place: Path, name: str) -> None:
    os.chown(place, -1, 4001)
    listener = listen([f"{place}/s"], mode=0o660, group=None, lane=True)
    status = (place / name).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, 4001)
    assert stat.S_IMODE((place / "s.lock").stat().st_mode) == 0o600
    listener.close()


def test_a_directorys_group_that_is_not_this_users_is_no_error(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    listener = listen([f"{place}/s"], mode=0o660, group=None)
    assert (place / "s").stat().st_gid == os.getegid()
    listener.close()


@needs_root
def test_mode_and_group_say_who_may_send(place: Path) -> None:
    listener = listen([f"{place}/s"], mode=0o660, group="4001")
    assert send_as(place / "s", [b"x"], uid=4002, gid=4002, groups=(4001,)) == ""
    assert "Permission denied" in send_as(place / "s", [b"y"], uid=4002, gid=4002)
    assert listener.socket.recv(10) == b"x"
    with pytest.raises(BlockingIOError):
        listener.socket.recv(10)
    listener.close()


def test_nobody_may_connect_before_the_socket_has_its_group_and_mode(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    give = module._give_to

    def look(opened: str, group: str, path: str) -> None:
        modes.append(stat.S_IMODE(Path(path).stat().st_mode))
        give(opened, group, path)

    monkeypatch.setattr(module, "_give_to", look)
    before = os.umask(0)
    try:
        listener = listen([f"{place}/s"], mode=0o666, group=str(os.getgid()), lane=True)
    finally:
        os.umask(before)
    assert modes == [0, 0]
    listener.close()


@pytest.mark.parametrize("is_link", [True, False])
def test_what_another_puts_in_place_of_the_socket_gets_neither_mode_nor_group(
    place: Path, monkeypatch: pytest.MonkeyPatch, *, is_link: bool
) -> None:
    victim = place / "victim"
    victim.touch(mode=0o600)
    bind = socket.socket.bind

    class Replaced(socket.socket):
        """After `bind` somebody else's file has its name."""

        def bind(self, address: Any) -> None:  # noqa: ANN401 - as the original
            bind(self, address)
            path = Path(address)
            path.unlink()
            if is_link:
                path.symlink_to(victim)
            else:
                victim.rename(path)

    monkeypatch.setattr(socket, "socket", Replaced)
    with pytest.raises(ConfigurationError, match="another user puts files of this name here"):
        listen([f"{place}/s"], mode=0o666, group=None)
    left = victim if is_link else place / "s.new"
    assert not left.exists() or stat.S_IMODE(left.stat().st_mode) == 0o600
    assert not (place / "s").exists()


@needs_root
def test_the_admin_socket_is_its_users_alone_whatever_the_umask(place: Path) -> None:
    before = os.umask(0)
    try:
        listener = listen_beside(f"{place}/s", "admin.sock")
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "admin.sock").stat().st_mode) == 0o600
    assert "Permission denied" in send_as(place / "admin.sock", [b"x"], uid=4002, gid=os.getgid())
    listener.close()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_of_ones_own_that_others_may_enter_is_refused(place: Path, mode: int) -> None:
    own = place / f"aiokpl-metricsd-{os.getuid()}"
    own.mkdir()
    own.chmod(mode)
    with pytest.raises(ConfigurationError, match="with mode 0700"):
        listen([f"{own}/s"], mode=0o600, group=None)


def test_a_link_in_place_of_ones_own_directory_is_refused(place: Path) -> None:
    (place / "elsewhere").mkdir(mode=0o700)
    own = place / f"aiokpl-metricsd-{os.getuid()}"
    own.symlink_to(place / "elsewhere")
    with pytest.raises(ConfigurationError, match="with mode 0700"):
        listen([f"{own}/s"], mode=0o600, group=None)
    assert list((place / "elsewhere").iterdir()) == []


@needs_root
def test_another_users_directory_in_place_of_ones_own_is_refused(place: Path) -> None:
    own = place / f"aiokpl-metricsd-{os.getuid()}"
    own.mkdir(mode=0o700)
    os.chown(own, 4002, 4002)
    with pytest.raises(ConfigurationError, match="with mode 0700"):
        listen([f"{own}/s"], mode=0o600, group=None)
