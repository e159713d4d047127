"""A custom sink for tests, with an option of each common type."""

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, NewType, Self

from aiokpl_metricsd.sinks import MetricSnapshot


class Sink:
    """A sink without options, to be derived from."""

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...


class Color(enum.Enum):
    RED = "red"


Text = NewType("Text", str)


class AcmeSink(Sink):
    """A sink with an option of each common type."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        retries: int = 3,
        ratio: float = 0.5,
        compressed: bool = True,
        mode: Literal["fast", "safe"] = "safe",
        color: Color = Color.RED,
        tags: Sequence[str] = (),
        ports: "list[int] | None" = None,
        weights: Mapping[str, float] | None = None,
        directory: Path | None = None,
        file: str | Path | None = None,
        since: datetime | None = None,
        share: Decimal = Decimal(1),
        region: Text = Text("eu"),
        client_factory: Callable[[], object] | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.given = dict(locals())


__all__ = ["AcmeSink", "Color", "Sink", "Text"]
