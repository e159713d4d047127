"""Stops a process in the midst of its imports: Python runs this module first where it is on the path.

`HALT_IMPORT` names the module before whose import the process waits, `HALT_MARKER` the file that appears
then. The wait ends when the file is removed, or after a while.
"""

import os
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

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


if "HALT_IMPORT" in os.environ:
    sys.meta_path.insert(0, Halt)

__all__ = ["Halt"]
