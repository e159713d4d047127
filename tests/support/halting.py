"""Processes that wait in the midst of an import, or miss one: the variables that make them."""

from pathlib import Path

from tests.support.child import ROOT, add_import_path

_ON_PATH = add_import_path(ROOT / "tests" / "support" / "halt_import")


def halt_import(module: str, marker: Path) -> dict[str, str]:
    """Return what makes a process wait before an import; the marker is there while it waits."""
    return {**_ON_PATH, "HALT_IMPORT": module, "HALT_MARKER": str(marker)}


def miss_import(package: str) -> dict[str, str]:
    """Return what makes a process find a package nowhere."""
    return {**_ON_PATH, "MISS_IMPORT": package}


__all__ = ["halt_import", "miss_import"]
