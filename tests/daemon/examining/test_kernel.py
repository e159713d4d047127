import socket
from pathlib import Path

import pytest

from aiokpl_metricsd.examining import kernel
from aiokpl_metricsd.examining.finding import Outcome


def test_this_kernel_has_what_lanes_need() -> None:
    assert kernel.check_lanes().outcome is Outcome.OK


def test_a_kernel_without_the_kind_of_socket_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr(socket, "socket", refuse)
    finding = kernel.check_lanes()
    assert (finding.outcome, finding.message) == (
        Outcome.FAILURE,
        "no SOCK_SEQPACKET over Unix sockets: Protocol not supported",
    )
    assert "before Linux 6.16" in kernel.check_descriptors_refused().message


def test_a_short_queue_is_a_warning_that_says_what_to_do() -> None:
    assert kernel.check_queue_length(10, lanes=False).outcome is Outcome.OK
    assert kernel.check_queue_length(512, lanes=True).message.endswith("513 datagrams wait at the front door")
    finding = kernel.check_queue_length(3, lanes=False)
    assert finding.outcome is Outcome.WARNING
    assert finding.advice == (
        "sysctl -w net.unix.max_dgram_qlen=10, or set state_dir, so that producers have lanes"
    )
    assert "state_dir" not in kernel.check_queue_length(3, lanes=True).advice


def test_a_queue_length_that_cannot_be_read_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernel, "QUEUE_LENGTH", tmp_path / "nothing")
    assert kernel.read_queue_length() is None
    assert kernel.check_queue_length(None, lanes=True).outcome is Outcome.OK
    (tmp_path / "length").write_text("7\n")
    monkeypatch.setattr(kernel, "QUEUE_LENGTH", tmp_path / "length")
    assert kernel.read_queue_length() == 7


@pytest.mark.parametrize(
    ("lanes", "outcome"), [(4_096, Outcome.OK), (896, Outcome.OK), (512, Outcome.OK), (128, Outcome.WARNING)]
)
def test_a_low_limit_on_open_files_is_a_warning_where_there_are_lanes(lanes: int, outcome: Outcome) -> None:
    assert kernel.check_open_files(lanes, 4_096, has_lanes=True).outcome is outcome
    assert kernel.check_open_files(lanes, 4_096, has_lanes=False).outcome is Outcome.OK
