"""A disk of its own for a test, so that it can be full or read-only: a tmpfs, where one may be mounted."""

import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Self

import pytest

_TIMEOUT_S = 30


@contextmanager
def mount_disk(path: Path, options: str) -> Generator[Path]:
    """Mount a disk at a directory, made where it is missing; skip the test where that is not permitted.

    Args:
        path: may be in use, and holds something else for as long as the disk is there.
        options: of tmpfs, as "size=24m".
    """
    path.mkdir(exist_ok=True)
    mount = which("mount")
    if mount is None:
        pytest.skip("there is no mount")
    command = [mount, "-t", "tmpfs", "-o", options, "none", str(path)]
    if subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=_TIMEOUT_S)


class Filler:
    """Takes all space of a disk, and what becomes free as well, for as long as the context lasts."""

    _INTERVAL_S = 0.002

    def __init__(self, disk: Path) -> None:
        self._path = disk / "filler"
        self._ended = threading.Event()
        self._is_full = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        """Return it when the disk is full."""
        self._thread.start()
        assert self._is_full.wait(_TIMEOUT_S)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Give the space back."""
        self._ended.set()
        self._thread.join(_TIMEOUT_S)
        self._path.unlink()

    def _run(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            while not self._ended.is_set():
                with suppress(OSError):
                    while file.write(bytes(1 << 16)):
                        pass
                # Less than a page is left, and it is not ours.
                self._is_full.set()
                self._ended.wait(self._INTERVAL_S)


__all__ = ["Filler", "mount_disk"]
