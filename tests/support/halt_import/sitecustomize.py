"""Stops a process in the midst of its imports, or lets it miss one: Python runs this module first.

`HALT_IMPORT` names the module before whose import the process waits, `HALT_MARKER` the file that appears
then. The wait ends when the file is removed, or after a while. `MISS_IMPORT` names a package that is not
there, whatever is installed. `tests.support.halting` sets these.
"""

import os
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_WAIT_S = 30.0


class Halt:
    """A finder that finds nothing, and takes its time about one module."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Wait, if this is the module."""
        if name == os.environ["HALT_IMPORT"]:
            marker = Path(os.environ["HALT_MARKER"])
            marker.touch()
            deadline = time.monotonic() + _WAIT_S
            while marker.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        return None


class Miss:
    """A finder that finds what another one does, but for one package."""

    def __init__(self, finder: Any) -> None:  # noqa: ANN401 - whatever Python has
        self._finder = finder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find it, unless it is of that package."""
        missed = os.environ["MISS_IMPORT"]
        if f"{name}.".startswith(f"{missed}."):
            return None
        found: ModuleSpec | None = self._finder.find_spec(name, path, target)
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._finder, name)


if "HALT_IMPORT" in os.environ:
    sys.meta_path.insert(0, Halt)
if "MISS_IMPORT" in os.environ:
    sys.meta_path[:] = [Miss(finder) for finder in sys.meta_path]

__all__ = ["Halt", "Miss"]
