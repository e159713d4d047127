"""Deliveries over a real outbox, one life after the other, with deaths in between."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.outbox import Outbox
from aiokpl_metricsd.snapshot import MetricSnapshot

# Longer than any test waits for what is to happen at once.
_PATIENCE_S = 20.0

MAX_BYTES = 1 << 30


class Wall:
    """Epoch seconds that pass when a test says so."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Life:
    """One daemon's life over a directory: an outbox and a delivery. Nothing waits: every backoff is 0 s."""

    def __init__(
        self,
        directory: Path,
        *sinks: SinkSettings,
        wall: Wall | None = None,
        max_bytes: int = MAX_BYTES,
        random: Callable[[], float] | None = None,
    ) -> None:
        self.directory = directory
        self.outbox = Outbox.open(directory, max_bytes=max_bytes)
        self.delivery = Delivery(
            sinks,
            outbox=self.outbox,
            wall_clock=wall or Wall(),
            random=random or (lambda: 0.0),
        )

    async def hand_over(self, *windows: Sequence[MetricSnapshot]) -> bool:
        """Hand windows over as one closing, without a checkpoint."""
        return await self.delivery.hand_over([(window, window[0].window_end) for window in windows], None)

    async def rest(self) -> None:
        """Let the store's thread do all that it was asked for."""
        for _ in range(3):
            await asyncio.sleep(0)
            await self.outbox._thread.submit(lambda: None)

    async def die(self) -> Path:
        """Return a directory with what a SIGKILL leaves at this moment; this life goes on, in vain."""
        await self.rest()
        left = self.directory.with_name(f"{self.directory.name}x")
        shutil.copytree(self.directory, left)
        return left


@asynccontextmanager
async def living(
    directory: Path,
    *sinks: SinkSettings,
    wall: Wall | None = None,
    max_bytes: int = MAX_BYTES,
    close_s: float = 0.05,
) -> AsyncGenerator[Life]:
    """Live, and end in order."""
    life = Life(directory, *sinks, wall=wall, max_bytes=max_bytes)
    await life.delivery.start()
    try:
        yield life
    finally:
        await life.delivery.close(close_s)
        await life.outbox.close()
    for ledger in life.delivery.ledgers.values():
        assert ledger.balance() == 0


async def until(is_so: Callable[[], object], what: str = "what was to happen") -> None:
    """Wait until it is so; the threads that it takes are real ones."""
    async with asyncio.timeout(_PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
    assert is_so(), what


def draw(seed: int) -> Callable[[], float]:
    """Return a source of chance for a life: backoffs of a few milliseconds at most."""
    random = Random(seed)
    return lambda: random.random() / 500.0


__all__ = ["MAX_BYTES", "Life", "Wall", "draw", "living", "until"]
