import os
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aiokpl_metricsd.config import IngestOptions
from aiokpl_metricsd.examining import ingest
from aiokpl_metricsd.examining.finding import Outcome
from aiokpl_metricsd.examining.lock import find_lock, is_locked
from aiokpl_metricsd.listener import listen


@pytest.fixture
def path() -> Iterator[str]:
    """A socket's path in a directory of its own, short enough for one."""
    with TemporaryDirectory(prefix="metricsd-") as directory:
        yield f"{directory}/metrics.sock"


def judge(path: str) -> tuple[Outcome, str]:
    finding = ingest.check_life(path, ingest.look_for_life(path))
    return finding.outcome, finding.message.removeprefix(f"{path}: ")


def test_a_path_that_nobody_has_is_free(path: str) -> None:
    assert judge(path) == (Outcome.OK, "no daemon runs, and nothing is in its way")


def test_a_daemon_is_seen_and_so_is_what_it_leaves_when_it_is_killed(path: str) -> None:
    listener = listen([path], mode=0o660, group=None)
    assert judge(path) == (Outcome.OK, "a daemon takes events there")
    assert is_locked(f"{path}.lock")
    listener.socket.close()
    assert judge(path)[0] is Outcome.WARNING
    assert "holds the lock and takes no events" in judge(path)[1]
    left = Path(path)
    listener.close()
    assert not is_locked(f"{path}.lock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(left))
    assert judge(path) == (Outcome.WARNING, "a socket without a daemon, as one that was killed leaves it")


def test_a_socket_without_a_lock_is_somebody_s_as_one_of_systemd_is(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inherited:
        inherited.bind(path)
        assert judge(path) == (Outcome.OK, "somebody takes events there, whom this process cannot see")


def test_something_else_in_its_place_is_a_failure(path: str) -> None:
    Path(path).write_text("")
    assert judge(path) == (Outcome.FAILURE, "it is no socket")
    Path(path).unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(path)
        other.listen()
        assert judge(path) == (Outcome.FAILURE, "another kind of socket listens there")


def test_a_path_that_is_too_long_and_a_group_that_is_not_there_are_failures(path: str) -> None:
    assert ingest.check_path([path], IngestOptions(), lanes=True).outcome is Outcome.OK
    long = ingest.check_path([f"/run/{'x' * 120}/metrics.sock"], IngestOptions(), lanes=False)
    assert (long.outcome, "at most 103 bytes" in long.message) == (Outcome.FAILURE, True)
    group = ingest.check_path([path], IngestOptions(group="no-such-group"), lanes=False)
    assert (group.outcome, "no group" in group.message) == (Outcome.FAILURE, True)


def test_the_directory_is_judged_whether_it_is_there_or_not(path: str) -> None:
    assert ingest.check_directory(path).message.endswith("can be written")
    deeper = str(Path(path).parent / "a" / "b" / "metrics.sock")
    assert ingest.check_directory(deeper).message.endswith("is not there yet, and can be made")
    Path(path).write_text("")
    assert ingest.check_directory(f"{path}/metrics.sock").outcome is Outcome.FAILURE


def test_who_can_send_is_said_by_name(path: str) -> None:
    Path(path).parent.chmod(0o755)
    assert ingest.check_senders(path, IngestOptions(mode="0600")).message == (
        f"mode 0600: uid {os.geteuid()} can send"
    )
    listen([path], mode=0o660, group=None).socket.close()
    said = ingest.check_senders(path, IngestOptions(mode="0600"))
    assert (said.outcome, said.message.startswith("mode 0660: uid ")) == (Outcome.OK, True)
    assert " and group " in said.message
    Path(path).chmod(0o666)
    everybody = ingest.check_senders(path, IngestOptions())
    assert (everybody.outcome, "every user can send" in everybody.message) == (Outcome.WARNING, True)


def test_who_is_listed_is_said(path: str) -> None:
    options = IngestOptions(mode="0600", allow_uids=(7, 8), allow_gids=(9,))
    assert ingest.check_senders(path, options).message.endswith("can send, of whom uid 7, uid 8, gid 9 may")
    assert ingest.check_senders(path, IngestOptions(mode="0600", allow_gids=())).message.endswith(
        "of whom nobody may"
    )


def test_a_directory_that_keeps_the_group_out_is_a_warning(path: str) -> None:
    Path(path).parent.chmod(0o700)
    private = ingest.check_senders(path, IngestOptions(mode="0660"))
    assert (private.outcome, "is closed to others" in private.message) == (Outcome.OK, True)
    finding = ingest.check_senders(path, IngestOptions(mode="0660", group="54321"))
    assert (finding.outcome, finding.advice) == (Outcome.WARNING, f"chmod o+x {Path(path).parent}")


def test_the_first_path_that_can_be_made_is_the_daemon_s(path: str) -> None:
    assert ingest.choose_path(["/dev/null/metrics.sock", path]) == path
    assert ingest.choose_path(["/dev/null/metrics.sock"]) == "/dev/null/metrics.sock"


def test_a_lock_that_is_waited_for_is_not_held() -> None:
    device, inode = os.makedev(8, 1), 4711
    held = "1: FLOCK  ADVISORY  WRITE 812 08:01:4711 0 EOF\n"
    assert find_lock(held, device, inode)
    assert not find_lock(held.replace("FLOCK", "POSIX"), device, inode)
    assert not find_lock(held.replace("1: FLOCK", "1: -> FLOCK"), device, inode)
    assert not find_lock(held, device, 4712)
