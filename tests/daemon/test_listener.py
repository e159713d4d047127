"""The socket's path: one owner, taken over without a gap, given back only while it is ours."""

import fcntl
import grp
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aiokpl_metricsd.errors import ConfigurationError, SocketInUseError
from aiokpl_metricsd.listener import Listener, check_place, listen

KINDS = [socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET]

# A start as a process has it: listen, say how it went, and stay until told to go.
STARTER = """
import sys
from aiokpl_metricsd.errors import SocketInUseError
from aiokpl_metricsd.listener import listen
print("ready", flush=True)
sys.stdin.readline()
try:
    listener = listen([sys.argv[1]], mode=0o660, group=None)
except SocketInUseError:
    print("in use", flush=True)
else:
    print("won", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of a short name: pytest's own leave little of the 107 bytes that a socket's path has."""
    with TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
def start() -> Iterator[Callable[..., Listener]]:
    with ExitStack() as stack:

        def begin(*paths: Path, mode: int = 0o660, group: str | None = None, lane: bool = False) -> Listener:
            listener = listen([str(path) for path in paths], mode=mode, group=group, lane=lane)
            stack.callback(listener.close)
            return listener

        yield begin


Start = Callable[..., Listener]


def leave_stale(path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """Leave a socket's file without its owner, as a killed daemon does; return its inode."""
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(str(path))
    return path.stat().st_ino


def send(path: Path, datagram: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(str(path))
        client.send(datagram)


def test_what_is_sent_to_the_path_arrives_at_a_socket_that_does_not_block(place: Path, start: Start) -> None:
    listener = start(place / "s")
    assert listener.path == str(place / "s")
    send(place / "s", b"hello")
    assert listener.socket.recv(100) == b"hello"
    with pytest.raises(BlockingIOError):
        listener.socket.recv(100)
    assert not listener.socket.get_inheritable()


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
def test_the_socket_has_the_mode_that_was_asked_for_whatever_the_umask(
    place: Path, start: Start, mode: int
) -> None:
    before = os.umask(0o077)
    try:
        start(place / "s", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "s").stat().st_mode) == mode


def test_the_group_is_given_by_name_or_number(place: Path, start: Start) -> None:
    gid = os.getgid()
    names = [str(gid)]
    with suppress(KeyError):
        names.append(grp.getgrgid(gid).gr_name)
    for name in names:
        listener = start(place / "s", group=name)
        assert (place / "s").stat().st_gid == gid
        listener.close()


@pytest.mark.parametrize("group", ["no such group", "99999999999999999999", ""])
def test_a_group_that_cannot_be_is_named_and_leaves_nothing_behind(
    place: Path, start: Start, group: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"\[ingest\] group"):
        start(place / "s", place / "other", group=group)
    assert sorted(each.name for each in place.iterdir()) == ["s.lock"]
    start(place / "s")


def test_a_group_that_is_not_this_users_is_named(
    place: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ConfigurationError, match=r"\[ingest\] group.*Operation not permitted"):
        start(place / "s", group="0")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stale_socket_is_taken_over(place: Path, start: Start, kind: socket.SocketKind) -> None:
    inode = leave_stale(place / "s", kind)
    listener = start(place / "s")
    assert (place / "s").stat().st_ino != inode
    send(place / "s", b"x")
    assert listener.socket.recv(10) == b"x"


def test_while_a_stale_socket_is_taken_over_the_path_is_always_there(place: Path) -> None:
    path = place / "s"
    gaps: list[int] = []
    looks: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            looks.append(1)
            try:
                os.stat(path)  # noqa: PTH116 - as fast as can be
            except FileNotFoundError:
                gaps.append(1)

    leave_stale(path)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(200):
            listener = listen([str(path)], mode=0o660, group=None)
            # As after a kill: the file stays, its owner is gone.
            listener.socket.close()
            os.close(listener._lock)
    finally:
        done.set()
        watcher.join()
    assert looks
    assert gaps == []


def test_a_live_owner_under_the_lock_is_never_displaced(place: Path, start: Start) -> None:
    first = start(place / "s")
    inode = (place / "s").stat().st_ino
    with pytest.raises(SocketInUseError, match="another daemon runs here"):
        start(place / "s", place / "other")
    assert (place / "s").stat().st_ino == inode
    assert not (place / "other").exists()
    send(place / "s", b"x")
    assert first.socket.recv(10) == b"x"


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_owner_that_knows_no_lock_is_never_displaced(
    place: Path, start: Start, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as foreign:
        foreign.bind(str(place / "s"))
        if kind != socket.SOCK_DGRAM:
            foreign.listen()
        with pytest.raises(SocketInUseError, match="another program listens here"):
            start(place / "s", place / "other")
    start(place / "s")


def test_a_foreign_listener_whose_queue_is_full_is_alive(place: Path, start: Start) -> None:
    with ExitStack() as stack:
        foreign = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        foreign.bind(str(place / "s"))
        foreign.listen(0)
        with suppress(BlockingIOError):
            for _ in range(10):
                client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                client.settimeout(0)
                client.connect(str(place / "s"))
        with pytest.raises(SocketInUseError, match="another program listens here"):
            start(place / "s")


def test_of_many_processes_that_start_at_once_exactly_one_wins(place: Path) -> None:
    path = place / "s"
    leave_stale(path)
    command = [sys.executable, "-c", STARTER, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
                )
            )
            for _ in range(12)
        ]
        for each in processes:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in processes:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        said = sorted(each.stdout.readline() for each in processes if each.stdout is not None)
        # While the winner lives its socket is reached by the path.
        send(path, b"x")
        for each in processes:
            each.communicate("end\n", timeout=30)
    assert said == ["in use\n"] * 11 + ["won\n"]


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_another_file_at_the_path_is_left_alone(
    place: Path, start: Start, make: Callable[[Path], None]
) -> None:
    make(place / "s")
    with pytest.raises(ConfigurationError, match="is there and no socket"):
        start(place / "s", place / "other")
    assert (place / "s").lstat()
    assert not stat.S_ISSOCK((place / "s").lstat().st_mode)


def test_a_path_that_is_too_long_or_has_a_nul_is_passed_over(place: Path, start: Start) -> None:
    long = place / ("x" * (104 - len(os.fsencode(place))))
    assert len(os.fsencode(long)) == 105
    with pytest.raises(ConfigurationError, match="at most 103 bytes"):
        start(long)
    with pytest.raises(ConfigurationError, match="NUL"):
        start(place / "a\0b")
    assert start(long, place / "a\0b", place / "s").path == str(place / "s")


def test_a_path_of_the_greatest_length_works(place: Path, start: Start) -> None:
    path = place / ("x" * (102 - len(os.fsencode(place))))
    assert len(os.fsencode(path)) == 103
    start(path)
    send(path, b"x")


def test_the_first_candidate_that_can_be_made_is_taken(place: Path, start: Start) -> None:
    (place / "file").touch()
    paths = [place / "file" / "s", place / "new" / "deep" / "s", place / "third"]
    assert start(*paths).path == str(paths[1])
    assert not paths[2].exists()


def test_when_no_candidate_can_be_made_the_reason_of_each_is_told(place: Path, start: Start) -> None:
    (place / "file").touch()
    with pytest.raises(ConfigurationError) as caught:
        start(place / "file" / "a", place / "file" / "b")
    line = str(caught.value)
    assert line.count("File exists") == 2
    assert "set [ingest] socket" in line


def test_the_users_own_directory_must_be_closed_to_others(place: Path, start: Start) -> None:
    directory = place / f"aiokpl-metricsd-{os.getuid()}"
    start(directory / "s").close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o770)
    with pytest.raises(ConfigurationError, match="mode 0700"):
        start(directory / "s")


def test_to_refuse_more_takes_the_path_away_and_leaves_what_is_queued(place: Path, start: Start) -> None:
    listener = start(place / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(str(place / "s"))
        client.send(b"queued")
        listener.refuse_more()
        assert not (place / "s").exists()
        with pytest.raises(BrokenPipeError):
            client.send(b"too late")
    assert listener.socket.recv(100) == b"queued"
    with pytest.raises(SocketInUseError):
        start(place / "s")
    listener.close()
    start(place / "s")


@pytest.mark.parametrize("end", [Listener.close, Listener.refuse_more])
def test_a_path_that_is_anothers_by_now_is_not_removed(
    place: Path, start: Start, end: Callable[[Listener], None]
) -> None:
    listener = start(place / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as successor:
        successor.bind(str(place / "t"))
        (place / "t").rename(place / "s")
        end(listener)
        assert (place / "s").exists()
        send(place / "s", b"x")
        assert successor.recv(10) == b"x"


def test_closing_frees_path_and_lock(place: Path, start: Start) -> None:
    listener = start(place / "s")
    listener.close()
    assert not (place / "s").exists()
    lock = os.open(place / "s.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


def test_closing_twice_takes_nothing_from_a_successor_that_got_the_same_inode_number(
    place: Path, start: Start
) -> None:
    listener = start(place / "s")
    listener.close()
    successor = start(place / "s")
    # What file systems do by themselves, but not at every try.
    listener._identities = successor._identities
    listener.close()
    send(place / "s", b"x")
    assert successor.socket.recv(10) == b"x"
    with pytest.raises(SocketInUseError):
        start(place / "s")


def test_a_lock_that_is_a_symbolic_link_is_not_followed(place: Path, start: Start) -> None:
    (place / "s.lock").symlink_to(place / "target")
    with pytest.raises(ConfigurationError, match="cannot create"):
        start(place / "s")
    assert not (place / "target").exists()


def test_what_a_killed_start_left_under_the_other_name_is_no_obstacle(place: Path, start: Start) -> None:
    leave_stale(place / "s.new")
    start(place / "s")
    assert sorted(each.name for each in place.iterdir()) == ["s", "s.lock"]


def connect_lane(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        client.settimeout(10)
        client.connect(f"{path}.lane")
    except BaseException:
        client.close()
        raise
    return client


def test_lanes_are_offered_only_when_asked_for(place: Path, start: Start) -> None:
    assert start(place / "s").lane is None
    assert not (place / "s.lane").exists()


def test_lanes_connect_beside_the_front_door_with_its_mode_and_group(place: Path, start: Start) -> None:
    before = os.umask(0o077)
    try:
        listener = start(place / "s", mode=0o606, group=str(os.getgid()), lane=True)
    finally:
        os.umask(before)
    status = (place / "s.lane").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o606, os.getgid())
    assert listener.lane is not None
    assert not listener.lane.get_inheritable()
    with connect_lane(place / "s") as client:
        client.send(b"hello")
        accepted, _ = listener.lane.accept()
        with accepted:
            assert accepted.recv(10) == b"hello"
    with pytest.raises(BlockingIOError):
        listener.lane.accept()


def test_many_lanes_wait_to_be_accepted(place: Path, start: Start) -> None:
    start(place / "s", lane=True)
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect_lane(place / "s"))


def test_a_stale_lane_is_taken_over_and_a_live_foreign_one_is_not(place: Path, start: Start) -> None:
    inode = leave_stale(place / "s.lane", socket.SOCK_SEQPACKET)
    start(place / "s", lane=True).close()
    assert sorted(each.name for each in place.iterdir()) == ["s.lock"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as foreign:
        foreign.bind(str(place / "s.lane"))
        foreign.listen()
        with pytest.raises(SocketInUseError, match="another program listens here"):
            start(place / "s", lane=True)
        assert not (place / "s").exists()
    listener = start(place / "s", lane=True)
    assert (place / "s.lane").stat().st_ino != inode
    connect_lane(place / "s").close()
    listener.close()


def test_without_a_front_door_there_are_no_lanes(place: Path, start: Start) -> None:
    (place / "s.new").mkdir()
    with pytest.raises(ConfigurationError, match="cannot create"):
        start(place / "s", lane=True)
    assert sorted(each.name for each in place.iterdir()) == ["s.lock", "s.new"]


def test_the_end_takes_both_paths_and_what_has_connected_can_still_be_accepted(
    place: Path, start: Start
) -> None:
    listener = start(place / "s", lane=True)
    assert listener.lane is not None
    with connect_lane(place / "s") as client:
        listener.refuse_more()
        assert sorted(each.name for each in place.iterdir()) == ["s.lock"]
        with pytest.raises(FileNotFoundError):
            connect_lane(place / "s")
        accepted, _ = listener.lane.accept()
        accepted.close()
        assert client.recv(10) == b""
    listener.close()
    assert listener.lane.fileno() == -1


def test_a_path_has_room_for_the_lanes_as_well(place: Path, start: Start) -> None:
    # sun_path without its zero, less what is appended.
    limit = 107 - len(".lane.new")
    fits = place / ("x" * (limit - len(str(place)) - 1))
    start(fits, lane=True)
    with pytest.raises(ConfigurationError, match=f"at most {limit} bytes"):
        start(Path(f"{fits}x"), lane=True)
    # The check of a configuration says the same.
    check_place([str(fits)], group=None, lane=True)
    with pytest.raises(ConfigurationError, match=f"at most {limit} bytes"):
        check_place([f"{fits}x"], group=None, lane=True)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_nobody_passes_a_descriptor_where_the_kernel_knows_how_to_refuse_it(
    place: Path, start: Start, kind: socket.SocketKind
) -> None:
    listener = start(place / "s", lane=True)
    try:
        listener.socket.getsockopt(socket.SOL_SOCKET, 83)
    except OSError:
        pytest.skip("a kernel before 6.16")
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(str(place / ("s" if kind == socket.SOCK_DGRAM else "s.lane")))
        with pytest.raises(PermissionError):
            socket.send_fds(client, [b"x"], [0])
        client.send(b"alone")
