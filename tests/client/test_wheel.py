"""What a producer installs: two small wheels of pure Python, and msgspec; the test kit works with that."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from tests.support.wheels import build_wheels

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling builds wheels, and is not installed"
)

# What pytest consists of on this Python; whatever of it is not there is not needed.
PYTEST = (
    "pytest",
    "_pytest",
    "py",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
    "exceptiongroup",
    "tomli",
)

MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of the protocol and of the client."""
    return build_wheels(tmp_path_factory.mktemp("wheels"))


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_each_is_one_small_wheel_of_pure_python(wheels: list[Path]) -> None:
    assert [wheel.name.split("-")[0] for wheel in wheels] == [
        "aiokpl_metrics_protocol",
        "aiokpl_metrics_client",
    ]
    for wheel in wheels:
        assert wheel.name.endswith("-py3-none-any.whl")
        assert wheel.stat().st_size < MOST_BYTES
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        kinds = {Path(name).suffix or Path(name).name for name in names if ".dist-info/" not in name}
        assert kinds == {".py", ".typed"}
        assert f"{wheel.name.split('-')[0]}/py.typed" in names


def test_msgspec_is_the_only_dependency_that_is_not_ours(wheels: list[Path]) -> None:
    protocol, client = map(read_metadata, wheels)
    version = protocol["Version"]
    assert protocol.get_all("Requires-Dist") == ["msgspec>=0.19"]
    assert sorted(client.get_all("Requires-Dist") or []) == [
        f"aiokpl-metrics-protocol=={version}",
        "msgspec>=0.19",
    ]
    for metadata in (protocol, client):
        assert metadata["Requires-Python"] == ">=3.10"
        assert metadata["Version"] == version
        assert "Typing :: Typed" in (metadata.get_all("Classifier") or [])


def test_the_kit_for_tests_works_from_the_wheels_where_no_daemon_is_installed(
    wheels: list[Path], tmp_path: Path
) -> None:
    place = tmp_path / "site"
    place.mkdir()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
    for name in ("msgspec", *PYTEST):
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            source = Path(found.origin)
            source = source.parent if source.name == "__init__.py" else source
            (place / source.name).symlink_to(source)
    (tmp_path / "test_shop.py").write_text(
        """
import importlib.util

def test_orders_are_counted_without_a_daemon(metricsd):
    assert importlib.util.find_spec("aiokpl_metricsd") is None
    for _ in range(3):
        metricsd.client.put("UserRecordsPut", stream="orders")
    metricsd.client.put("UserRecordsPut", stream="returns")
    assert metricsd.total("UserRecordsPut", stream="orders") == 3
    assert "by the count of the test kit itself" in metricsd.explain()

def test_a_summed_gauge_is_the_sum_of_the_clients(metricsd):
    metricsd.client.gauge("open", merge="sum").record(3)
    metricsd.build_client().gauge("open", merge="sum").record(4)
    assert metricsd.last("open") == 7

def test_a_recording_transport_keeps_the_frames():
    from aiokpl_metrics_client import MetricsClient
    from aiokpl_metrics_client.testing import RecordingTransport
    transport = RecordingTransport()
    with MetricsClient() as client:
        transport.attach(client)
        client.put("orders", 2, status="paid")
    assert [event.value for event in transport.events()] == [2.0]
""",
        encoding="utf-8",
    )
    # Without the site, so that nothing is there but what was put there; the fixture comes by its entry point.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
