"""Limits of memory and CPU as a container runtime sets them: a cgroup of its own, version 1 or 2."""

import os
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from msgspec import Struct

from tests.support.polling import wait_for

_ROOT = Path("/sys/fs/cgroup")

# cfs_period_us, which is the kernel's default and the kubelet's.
_PERIOD_US = 100_000


class Limits(Struct, frozen=True):
    """Cgroups to enter.

    Attributes:
        directories: of the cgroups, by controller; one and the same with version 2.
    """

    directories: Mapping[str, Path]

    @property
    def processes(self) -> list[Path]:
        """The files that take whoever is to be limited."""
        return [directory / "cgroup.procs" for directory in dict.fromkeys(self.directories.values())]

    def count_oom_kills(self) -> int:
        """Return how often the kernel has killed a process because of the memory limit."""
        directory = self.directories["memory"]
        for name in ("memory.events", "memory.oom_control"):
            with suppress(FileNotFoundError):
                lines = (line.split() for line in (directory / name).read_text(encoding="ascii").splitlines())
                return int({line[0]: line[1] for line in lines}["oom_kill"])
        raise AssertionError(f"{directory} counts no kills")

    def count_throttled(self) -> int:
        """Return in how many periods the CPU limit was reached."""
        lines = (self.directories["cpu"] / "cpu.stat").read_text(encoding="ascii").splitlines()
        return int(dict(line.split() for line in lines)["nr_throttled"])


@contextmanager
def limit(*, memory_bytes: int | None = None, cpu_ratio: float | None = None) -> Generator[Limits]:
    """Make cgroups with these limits, for as long as the context lasts; skip the test where none can be."""
    is_new = (_ROOT / "cgroup.controllers").exists()
    settings: dict[str, dict[str, str]] = {}
    if memory_bytes is not None:
        # No swap, as in a pod; where the kernel does not count it, there is no such file.
        names = ("memory.max", "memory.swap.max") if is_new else ("memory.limit_in_bytes", "")
        settings["memory"] = {names[0]: str(memory_bytes), names[1]: "0"}
    if cpu_ratio is not None:
        quota_us = int(_PERIOD_US * cpu_ratio)
        settings["cpu"] = (
            {"cpu.max": f"{quota_us} {_PERIOD_US}"}
            if is_new
            else {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
        )
    directories: dict[str, Path] = {}
    try:
        for controller, files in settings.items():
            parent = _ROOT if is_new else _find_own(controller)
            directory = parent / f"pod-{os.getpid()}"
            try:
                if is_new:
                    _enable(parent, controller)
                directory.mkdir(exist_ok=True)
                directories[controller] = directory
                for name, value in files.items():
                    if (directory / name).is_file():
                        (directory / name).write_text(value, encoding="ascii")
                assert (directory / next(iter(files))).is_file()
            except (OSError, AssertionError) as error:
                pytest.skip(f"no cgroup can be limited here ({controller}): {error}")
        yield Limits(directories)
    finally:
        for directory in dict.fromkeys(directories.values()):
            wait_for(lambda: _remove(directory), f"{directory} to be empty")  # noqa: B023 - used at once


def _find_own(controller: str) -> Path:
    """Return the directory of this process's own cgroup of a controller of version 1."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            own = _ROOT / controller / path.strip("/")
            # In a namespace of cgroups the path may be one of the host's.
            return own if own.is_dir() else _ROOT / controller
    return _ROOT / controller


def _enable(parent: Path, controller: str) -> None:
    """Let children of a cgroup of version 2 have a controller; that it has none is found afterwards."""
    with suppress(OSError):
        (parent / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")


def _remove(directory: Path) -> bool:
    """Remove a cgroup with whatever a failed test has left in it; return whether it is gone."""
    processes = directory / "cgroup.procs"
    # Where no cgroup could be made, it may be a plain directory.
    for pid in processes.read_text(encoding="ascii").split() if processes.exists() else ():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    with suppress(OSError):
        directory.rmdir()
    # Otherwise the last process is still on its way out.
    return not directory.exists()


__all__ = ["Limits", "limit"]
