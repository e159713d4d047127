"""The same tests under the other Pythons that producers run, each with the wheels and without the daemon.

`make test` has made the environments of those that are installed; nothing is fetched here.
"""

import subprocess
from pathlib import Path

import pytest

from tests.pythons import (
    RUNNING,
    SECONDS_A_RUN,
    VERSIONS,
    build_command,
    build_environment,
    is_prepared,
)
from tests.support.child import ROOT
from tests.support.wheels import build_wheels

# Properties of the codec are tried with many examples by the run that this is a part of.
QUICKLY = ["-m", "not slow", "-p", "tests.support.few_examples"]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS_A_RUN + 60)
@pytest.mark.parametrize("version", [version for version in VERSIONS if version != RUNNING])
def test_the_quick_tests_pass(tmp_path: Path, version: str) -> None:
    if not is_prepared(version):
        pytest.skip(f"Python {version} is not installed, or `make test` has not made its environment")
    command = build_command(version, build_wheels(tmp_path), QUICKLY)
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=build_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_A_RUN,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
