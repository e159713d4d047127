"""The compose file -> its services, by name."""

from pathlib import Path
from typing import Any

import yaml

__all__ = ["COMPOSE", "read_services"]

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"


def read_services() -> dict[str, dict[str, Any]]:
    """Return what the file says of each service."""
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return services
