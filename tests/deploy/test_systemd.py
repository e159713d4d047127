"""The units are what systemd understands, and what the daemon and its page say of them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import socket_candidates
from aiokpl_metricsd.config import load
from aiokpl_metricsd.listener import LANE_SUFFIX
from tests.deploy.units import SERVICE, SOCKET, UNITS, read_unit

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "systemd.md"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: make integration installs it"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    # It looks for the program as well.
    program = str(Path(sys.executable).with_name("aiokpl-metricsd"))
    text = SERVICE.read_text(encoding="utf-8")
    (tmp_path / SERVICE.name).write_text(text.replace("/opt/aiokpl-metricsd/bin/aiokpl-metricsd", program))
    shutil.copy(SOCKET, tmp_path)
    done = analyze("verify", "--man=no", str(tmp_path / SERVICE.name), str(tmp_path / SOCKET.name))
    found = [line for line in done.stderr.splitlines() if "aiokpl-metricsd" in line]
    assert (done.returncode, found) == (0, [])


@needs_systemd
def test_systemd_rates_the_exposure_as_the_page_says() -> None:
    stated = re.search(
        r"exposure level of (\d+\.\d), \"(\w+)\" \(systemd (\d+);", PAGE.read_text(encoding="utf-8")
    )
    assert stated is not None
    level, word, version = stated.groups()
    done = analyze("security", "--offline=true", "--no-pager", str(SERVICE))
    rated = re.search(r"exposure level for \S+: (\d+\.\d) (\w+)", done.stdout)
    assert rated is not None, done.stdout[-200:] + done.stderr
    if analyze("--version").stdout.split()[1] == version:
        assert rated.groups() == (level, word)
    # Other versions rate by other settings.
    assert float(rated[1]) <= float(level)


def test_the_sockets_are_where_producers_look_and_lanes_are_beside_the_front_door() -> None:
    settings = read_unit(SOCKET)
    (door,) = settings["ListenDatagram"]
    assert door == socket_candidates({})[0]
    assert settings["ListenSequentialPacket"] == [door + LANE_SUFFIX]
    assert read_unit(SERVICE)["RuntimeDirectory"] == [Path(door).parent.name]
    # Otherwise the sockets' files would go when the service restarts.
    assert read_unit(SERVICE)["RuntimeDirectoryPreserve"] == ["yes"]


def test_the_sockets_belong_to_the_services_group() -> None:
    service, sockets = read_unit(SERVICE), read_unit(SOCKET)
    assert sockets["SocketUser"] == service["User"]
    assert sockets["SocketGroup"] == service["Group"]
    users = (UNITS / "aiokpl-metricsd.sysusers.conf").read_text(encoding="utf-8")
    assert re.search(rf"^u {service['User'][0]} ", users, re.MULTILINE)


def test_the_configuration_is_one_and_keeps_its_state_in_the_units_directory() -> None:
    configuration = load(str(UNITS / "sinks.toml"), {})
    (name,) = read_unit(SERVICE)["StateDirectory"]
    assert configuration.state_dir == f"/var/lib/{name}"
    # A path in it would have to be the socket unit's.
    assert configuration.ingest.socket is None


def test_the_time_to_stop_is_longer_than_that_of_the_last_exports() -> None:
    (stop,) = read_unit(SERVICE)["TimeoutStopSec"]
    assert float(stop) > load(None, {}).shutdown_timeout_s + 2


def test_producers_are_told_apart_by_their_users() -> None:
    # In a user namespace of its own the daemon would see all of them as one.
    assert "PrivateUsers" not in read_unit(SERVICE)
    # It reads the length of the kernel's queue in /proc/sys.
    assert "ProcSubset" not in read_unit(SERVICE)
