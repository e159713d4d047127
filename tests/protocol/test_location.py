"""Where the socket is looked for, and which directories are trusted with it."""

import os
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import is_trusted_directory, socket_candidates
from aiokpl_metrics_protocol.location import ENVIRONMENT_VARIABLE, MAX_PATH_BYTES, SOCKET_NAME

UID = os.getuid()


def test_the_variable_where_set_names_the_only_place() -> None:
    environ = {
        "AIOKPL_METRICSD_SOCKET": "/srv/m.sock",
        "XDG_RUNTIME_DIR": "/run/user/7",
        "TMPDIR": "/var/tmp",
    }
    assert socket_candidates(environ, 7) == ("/srv/m.sock",)
    assert ENVIRONMENT_VARIABLE == "AIOKPL_METRICSD_SOCKET"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert socket_candidates({"AIOKPL_METRICSD_SOCKET": ""}, 7) == socket_candidates({}, 7)


def test_the_system_s_place_comes_before_the_user_s_and_that_before_the_temporary_one() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/1000", "TMPDIR": "/scratch"}
    assert socket_candidates(environ, 1000) == (
        "/run/aiokpl-metricsd/metrics.sock",
        "/run/user/1000/aiokpl-metricsd/metrics.sock",
        "/scratch/aiokpl-metricsd-1000/metrics.sock",
    )


@pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": "", "TMPDIR": ""}])
def test_places_that_the_environment_does_not_name_are_left_out_or_have_their_defaults(
    environ: dict[str, str],
) -> None:
    assert socket_candidates(environ, 0) == (
        "/run/aiokpl-metricsd/metrics.sock",
        "/tmp/aiokpl-metricsd-0/metrics.sock",
    )


@pytest.mark.parametrize("directory", ["/scratch", "/scratch/"])
def test_a_slash_at_the_end_of_a_directory_makes_no_difference(directory: str) -> None:
    assert socket_candidates({"TMPDIR": directory}, 5)[-1] == "/scratch/aiokpl-metricsd-5/metrics.sock"


def test_without_arguments_the_process_s_own_environment_and_user_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AIOKPL_METRICSD_SOCKET", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/scratch")
    assert socket_candidates()[-1] == f"/scratch/aiokpl-metricsd-{UID}/{SOCKET_NAME}"
    monkeypatch.setenv("AIOKPL_METRICSD_SOCKET", "/srv/m.sock")
    assert socket_candidates() == ("/srv/m.sock",)


def test_where_there_are_no_users_the_number_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getuid")
    assert socket_candidates({})[-1] == "/tmp/aiokpl-metricsd-0/metrics.sock"


def test_the_user_s_own_closed_directory_is_trusted(tmp_path: Path) -> None:
    directory = tmp_path / f"aiokpl-metricsd-{UID}"
    directory.mkdir(mode=0o700)
    assert is_trusted_directory(str(directory / SOCKET_NAME))
    assert is_trusted_directory(str(directory / SOCKET_NAME), UID)


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o770, 0o707, 0o755, 0o777])
def test_a_directory_of_that_name_which_is_open_to_others_is_not_trusted(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / f"aiokpl-metricsd-{UID}"
    directory.mkdir()
    directory.chmod(mode)
    assert not is_trusted_directory(str(directory / SOCKET_NAME))


def test_a_directory_of_that_name_which_is_another_user_s_is_not_trusted(tmp_path: Path) -> None:
    directory = tmp_path / f"aiokpl-metricsd-{UID + 1}"
    directory.mkdir(mode=0o700)
    assert not is_trusted_directory(str(directory / SOCKET_NAME), UID + 1)


def test_a_link_of_that_name_is_not_trusted_wherever_it_leads(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    (tmp_path / f"aiokpl-metricsd-{UID}").symlink_to(target)
    assert not is_trusted_directory(str(tmp_path / f"aiokpl-metricsd-{UID}" / SOCKET_NAME))


def test_a_file_of_that_name_or_nothing_at_all_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / f"aiokpl-metricsd-{UID}"
    assert not is_trusted_directory(str(path / SOCKET_NAME))
    path.touch(mode=0o700)
    assert not is_trusted_directory(str(path / SOCKET_NAME))


def test_any_other_directory_is_the_administrator_s_business() -> None:
    assert is_trusted_directory("/run/aiokpl-metricsd/metrics.sock")
    assert is_trusted_directory("/srv/does-not-exist/metrics.sock")
    assert is_trusted_directory("metrics.sock")


def test_the_default_places_fit_into_a_socket_address() -> None:
    for path in socket_candidates({"XDG_RUNTIME_DIR": "/run/user/4294967294"}, 2**32 - 2):
        assert len(os.fsencode(path)) <= MAX_PATH_BYTES
