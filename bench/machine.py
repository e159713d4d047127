"""What the figures were measured on: without it they mean nothing."""

import os
import platform
import subprocess
import sysconfig
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench.process import ROOT

_DISTRIBUTIONS = (
    "msgspec",
    "uvloop",
    "aiobotocore",
    "aiohttp",
    "aiokpl",
    "datadog",
    "datadog-api-client",
    "grpcio",
    "netflix-spectator-py",
    "opentelemetry-sdk",
    "prometheus_client",
    "statsd",
)

_UNKNOWN = "unknown"

# What an earlier run wrote is no change of what is measured.
_OUTPUT = ":!bench/RESULTS.md"


def describe_machine() -> dict[str, str]:
    """Return processor, kernel, interpreter, commit, date and load, for people."""
    return {
        "cpu": f"{_read_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {_describe_build()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _read_commit(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()) + " (1, 5, 15 minutes, at the start)",
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of the libraries that were compared; "not installed" where one is missing."""
    versions: dict[str, str] = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _describe_build() -> str:
    """Say whether the interpreter was optimised: one that was not is a quarter slower at everything."""
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return "PGO" if "--enable-optimizations" in arguments else "no PGO"


def _read_cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _read_commit() -> str:
    """Name the commit, and say when the tree differs from it; a tree without git is no reason to stop."""
    head = _run_git("rev-parse", "--short=12", "HEAD")
    return head + (
        " with changes" if head != _UNKNOWN and _run_git("status", "--porcelain", "--", ".", _OUTPUT) else ""
    )


def _run_git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return _UNKNOWN
    return done.stdout.strip()


__all__ = ["describe_machine", "describe_versions"]
