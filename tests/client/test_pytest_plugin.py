"""pytest's start stays as it is, the fixture is there, and a failed test shows what it recorded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aiokpl_metrics_client.testing import Metricsd
from tests.support.child import ROOT

# Most of it starts a pytest of its own.
pytestmark = pytest.mark.slow


def _run_pytest(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(directory), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_fixture_hands_out_a_kit_that_is_empty(metricsd: Metricsd) -> None:
    assert metricsd.series() == []
    metricsd.client.put("n")
    assert metricsd.count("n") == 1


def test_the_entry_point_of_the_client_and_of_the_development_umbrella_is_the_same() -> None:
    tomllib = pytest.importorskip("tomllib", reason="it came with Python 3.11")
    found = [
        tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]["entry-points"]["pytest11"]
        for path in ("pyproject.toml", "client/pyproject.toml")
    ]
    assert found == [{"aiokpl_metricsd": "aiokpl_metrics_pytest.plugin"}] * 2


def test_the_plugin_brings_nothing_but_pytest() -> None:
    code = (
        "import json, sys, pytest\n"
        "before = set(sys.modules)\n"
        "import aiokpl_metrics_pytest.plugin\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == ["aiokpl_metrics_pytest", "aiokpl_metrics_pytest.plugin"]


def test_a_run_that_does_not_use_the_fixture_does_not_import_the_client(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n"
        "def test_nothing_is_loaded():\n"
        "    assert 'aiokpl_metrics_pytest.plugin' in sys.modules\n"
        "    assert not {'aiokpl_metrics_client', 'aiokpl_metrics_protocol'} & set(sys.modules)\n"
    )
    done = _run_pytest(tmp_path, "-q", "-W", "error", "-p", "no:asyncio")
    assert done.returncode == 0, done.stdout


def test_a_failed_test_shows_what_was_recorded_and_a_passed_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "def test_fails(metricsd):\n"
        "    metricsd.client.put('UserRecordsPut', stream='orders')\n"
        "    assert metricsd.total('UserRecordPut', stream='orders') == 3\n\n"
        "def test_passes(metricsd):\n"
        "    metricsd.client.put('OfTheOther')\n"
    )
    done = _run_pytest(tmp_path, "-rA")
    assert done.returncode == 1
    assert "- metricsd -" in done.stdout
    assert "UserRecordsPut{stream=orders}: counter in count, count 1, sum 1" in done.stdout
    assert "did you mean UserRecordsPut?" in done.stdout
    assert "OfTheOther" not in done.stdout


@pytest.mark.parametrize("own", ["return 5", "raise ValueError"])
def test_a_fixture_of_that_name_of_somebody_elses_is_left_alone(tmp_path: Path, own: str) -> None:
    (tmp_path / "test_other.py").write_text(
        f"import pytest\n\n@pytest.fixture\ndef metricsd():\n    {own}\n\n"
        "def test_fails(metricsd):\n    assert metricsd == 6\n"
    )
    done = _run_pytest(tmp_path, "-q")
    assert done.returncode == 1
    assert "INTERNALERROR" not in done.stdout + done.stderr
