"""Passed descriptors: which are taken, which are refused and why; none is left open."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.inheritance import inherit
from aiokpl_metricsd.receiving.admission import CREDENTIALS, UNTOLD, read_sender

FIRST = 200

MINE = {"LISTEN_PID": str(os.getpid())}


class Passer:
    """Passes sockets from descriptor `FIRST` on, as if another process had made them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0

    def pass_on(self, kind: socket.SocketKind, name: str | None, *, listens: bool = True) -> None:
        """Pass a Unix socket; one without a name is not bound."""
        with socket.socket(socket.AF_UNIX, kind) as made:
            if name is not None:
                made.bind(name if name.startswith("\0") else str(self.directory / name))
            if kind != socket.SOCK_DGRAM and listens:
                made.listen()
            self.pass_descriptor(made.fileno())

    def pass_descriptor(self, number: int) -> None:
        """Pass a copy of a descriptor."""
        os.dup2(number, FIRST + self.count)
        self.count += 1

    @property
    def environ(self) -> dict[str, str]:
        """What the manager says."""
        return {**MINE, "LISTEN_FDS": str(self.count)}

    @property
    def is_all_closed(self) -> bool:
        """Nothing is open any more."""
        return not any(Path(f"/proc/self/fd/{FIRST + place}").exists() for place in range(self.count))


@pytest.fixture
def passer() -> Iterator[Passer]:
    with TemporaryDirectory() as directory, ExitStack() as stack:
        passer = Passer(Path(directory))
        yield passer
        for place in range(passer.count):
            # What a test left open on purpose.
            if Path(f"/proc/self/fd/{FIRST + place}").exists():
                stack.callback(os.close, FIRST + place)


def test_both_sockets_are_taken_do_not_block_and_are_not_inherited_further(passer: Passer) -> None:
    # In any order: their kind tells which is which.
    passer.pass_on(socket.SOCK_SEQPACKET, "s.lane")
    passer.pass_on(socket.SOCK_DGRAM, "s")
    listener = inherit(passer.environ, str(passer.directory / "s"), lane=True, first=FIRST)
    assert listener is not None
    assert listener.lane is not None
    assert listener.path == str(passer.directory / "s")
    for each in (listener.socket, listener.lane):
        assert not each.get_inheritable()
        assert not each.getblocking()
    listener.refuse_more()
    listener.close()
    listener.close()
    assert (passer.directory / "s").exists()
    assert (passer.directory / "s.lane").exists()
    assert passer.is_all_closed


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "0", **MINE}],
)
def test_where_nothing_is_passed_to_this_process_there_is_no_listener(environ: dict[str, str]) -> None:
    assert inherit(environ, None) is None


@pytest.mark.parametrize("text", ["", "-1", "x", "1000000", "²"])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="LISTEN_FDS"):
        inherit({**MINE, "LISTEN_FDS": text}, None)


def pass_two_doors(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")
    passer.pass_on(socket.SOCK_DGRAM, "t")


def pass_a_stream(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")
    passer.pass_on(socket.SOCK_STREAM, "t")


def pass_lanes_alone(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_SEQPACKET, "s.lane")


def pass_lanes_elsewhere(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")
    passer.pass_on(socket.SOCK_SEQPACKET, "lanes")


def pass_deaf_lanes(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")
    passer.pass_on(socket.SOCK_SEQPACKET, "s.lane", listens=False)


def pass_no_lanes(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")


def pass_an_abstract_one(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, f"\0{passer.directory}/s")
    passer.pass_on(socket.SOCK_SEQPACKET, "s.lane")


def pass_an_unbound_one(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, None)
    passer.pass_on(socket.SOCK_SEQPACKET, "s.lane")


def pass_an_internet_socket(passer: Passer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        passer.pass_descriptor(made.fileno())


def pass_a_file(passer: Passer) -> None:
    with (passer.directory / "file").open("w") as file:
        passer.pass_descriptor(file.fileno())


@pytest.mark.parametrize(
    ("pass_them", "problem"),
    [
        (pass_two_doors, "one too many"),
        (pass_a_stream, "one too many"),
        (pass_lanes_alone, "no datagram socket"),
        (pass_lanes_elsewhere, r"ListenSequentialPacket=.*lanes: expected .*s\.lane"),
        (pass_deaf_lanes, "does not listen"),
        (pass_no_lanes, "add ListenSequentialPacket"),
        (pass_an_abstract_one, "without an absolute path"),
        (pass_an_unbound_one, "without an absolute path"),
        (pass_an_internet_socket, "one too many"),
    ],
)
def test_what_the_daemon_cannot_use_is_refused_and_closed(
    passer: Passer, pass_them: Callable[[Passer], None], problem: str
) -> None:
    pass_them(passer)
    with pytest.raises(ConfigurationError, match=problem):
        inherit(passer.environ, None, lane=True, first=FIRST)
    assert passer.is_all_closed


def test_what_is_no_socket_is_refused_and_left_alone(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")
    pass_a_file(passer)
    with pytest.raises(ConfigurationError, match="cannot use the sockets that were passed"):
        inherit(passer.environ, None, first=FIRST)
    assert not Path(f"/proc/self/fd/{FIRST}").exists()
    assert Path(f"/proc/self/fd/{FIRST + 1}").exists()


def test_lanes_that_nobody_would_serve_are_refused(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")
    passer.pass_on(socket.SOCK_SEQPACKET, "s.lane")
    with pytest.raises(ConfigurationError, match="without state_dir"):
        inherit(passer.environ, None, lane=False, first=FIRST)
    assert passer.is_all_closed


def test_another_path_in_the_configuration_is_named(passer: Passer) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")
    with pytest.raises(ConfigurationError, match=r"is /elsewhere, but the socket passed is .*/s"):
        inherit(passer.environ, "/elsewhere", first=FIRST)
    assert passer.is_all_closed


def test_a_datagram_that_waited_has_a_sender_only_where_the_manager_asked_for_credentials(
    passer: Passer,
) -> None:
    passer.pass_on(socket.SOCK_DGRAM, "s")

    def send() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(passer.directory / "s"))
            sender.send(b"x")

    send()
    listener = inherit(passer.environ, None, credentials=True, first=FIRST)
    assert listener is not None
    send()
    room = socket.CMSG_LEN(CREDENTIALS.size)
    senders = [read_sender(listener.socket.recvmsg(10, room)[1]).uid for _ in range(2)]
    assert senders == [UNTOLD, os.getuid()]
    listener.close()
