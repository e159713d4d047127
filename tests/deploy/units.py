"""systemd unit -> its settings, each as often as it is given."""

from pathlib import Path

__all__ = ["SERVICE", "SOCKET", "UNITS", "read_unit"]

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICE = UNITS / "aiokpl-metricsd.service"
SOCKET = UNITS / "aiokpl-metricsd.socket"


def read_unit(path: Path) -> dict[str, list[str]]:
    """Return the settings of a unit."""
    settings: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings
