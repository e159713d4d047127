"""Time that passes when a test says so, in place of `clock`, `wall_clock` and `sleep`."""

import asyncio
from collections.abc import Awaitable

# Rounds of the event loop after which nothing that only computes is still under way.
_ROUNDS = 200


class ManualClock:
    """A clock that stands still. Sleepers wake in `advance` and `run` alone, each at its own time.

    Its sleepers are asyncio's.

    Args:
        now: seconds at the beginning.

    Attributes:
        now: seconds, as `clock()` returns them.
        slept: every duration that `sleep` was asked for.
    """

    def __init__(self, now: float = 1_000.0) -> None:
        """Start with no sleeper."""
        self.now = now
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock was advanced by so much."""
        self.slept.append(delay_s)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + delay_s, len(self.slept), waiter))
        await waiter

    async def advance(self, duration_s: float) -> None:
        """Let so many seconds pass, every sleeper waking at its own time."""
        end = self.now + duration_s
        await settle()
        while due := [each for each in self._find_alive() if each[0] <= end]:
            first = min(due, key=lambda each: each[:2])
            self._sleepers.remove(first)
            self.now = max(self.now, first[0])
            first[2].set_result(None)
            await settle()
        self.now = end

    async def run(self, work: Awaitable[object], limit_s: float = 1e6) -> float:
        """Let time pass until the work is done; return how many seconds that took.

        Raises:
            AssertionError: the work waits for something that is no sleep, or takes longer than the limit.
        """
        begin = self.now
        task = asyncio.ensure_future(work)
        await settle()
        while not task.done():
            alive = self._find_alive()
            if not alive:
                raise AssertionError("nothing will ever happen")
            await self.advance(max(0.0, min(each[0] for each in alive) - self.now))
            if self.now - begin > limit_s:
                raise AssertionError(f"not done within {limit_s:g} s")
        task.result()
        return self.now - begin

    def _find_alive(self) -> list[tuple[float, int, asyncio.Future[None]]]:
        self._sleepers = [each for each in self._sleepers if not each[2].done()]
        return self._sleepers


async def settle() -> None:
    """Let the event loop run until nothing is left to do now. No thread or socket is waited for."""
    loop = asyncio.get_running_loop()
    # A private name, but the only one that says whether the loop is idle. uvloop has none.
    ready: object = getattr(loop, "_ready", None)
    await asyncio.sleep(0)
    if ready is None:
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
    while ready:  # noqa: ASYNC110 - there is no event for idleness
        await asyncio.sleep(0)


__all__ = ["ManualClock", "settle"]
