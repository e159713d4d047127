"""The distributions that a producer installs, built as wheels, without a network."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.child import ROOT

FOLDERS = ("protocol", "client")


def build_wheels(directory: Path) -> list[Path]:
    """Build the wheels of the protocol and of the client into a directory, and return them in this order.

    The sources are copied first, so that nothing is left in them.
    """
    sources = directory / "sources"
    wheels: list[Path] = []
    for folder in FOLDERS:
        leave_out = shutil.ignore_patterns("__pycache__", "dist", "*.egg-info")
        shutil.copytree(ROOT / folder, sources / folder, ignore=leave_out)
        target = directory / "wheels" / folder
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
        subprocess.run(command, cwd=sources / folder, check=True, capture_output=True, timeout=60)
        wheels += target.glob("*.whl")
    return wheels


__all__ = ["FOLDERS", "build_wheels"]
