"""Site-packages of the image -> bytes of the daemon alone, and of what each extra adds to it."""

import re
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

from deploy.image.build import EXTRAS, list_requirements

__all__ = ["measure_extras"]


def measure_extras(site: Path, root: Path) -> dict[str, int]:
    """Return the bytes of the daemon with what it needs, and of what each extra needs beyond.

    What two extras need, as aiohttp, counts for both.

    Args:
        site: the directory of the packages in the image.
        root: of the checkout, which has the requirements.
    """
    found = {_normalize(each.metadata["Name"]): each for each in distributions(path=[str(site)])}

    def measure(names: Iterable[str]) -> int:
        files = {file for name in names if name in found for file in found[name].files or ()}
        return sum(path.stat().st_size for path in (site / file for file in files) if path.is_file())

    alone = _read_names(root, "")
    ours = sum(
        path.stat().st_size
        for name in ("aiokpl_metricsd", "aiokpl_metrics_protocol")
        for path in (site / name).rglob("*")
        if path.is_file()
    )
    return {"daemon": measure(alone) + ours} | {
        extra: measure(_read_names(root, extra) - alone) for extra in EXTRAS
    }


def _read_names(root: Path, extras: str) -> set[str]:
    return {
        _normalize(name)
        for file in list_requirements(extras)
        for name in re.findall(r"^([\w.-]+)==", (root / file).read_text(encoding="utf-8"), re.MULTILINE)
    }


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
