"""Whatever backends answer, whenever the daemon dies: no snapshot without a fate, and ledgers that say it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.delivering.stored import Life, draw, living, until
from tests.daemon.fakes import ScriptedSink, build_window, serve


class Backend:
    """Takes what it is sent, and answers by chance; outlives the daemons."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.taken: Counter[tuple[str, str]] = Counter()
        self.is_well = False

    async def export(self, batch: Sequence[MetricSnapshot]) -> None:
        await asyncio.sleep(0)
        draw = 1.0 if self.is_well else self.random.random()
        if draw < 0.2:
            raise RetryableExportError("busy")
        if draw < 0.3 and len(batch) > 1:
            raise PermanentExportError("no")
        middle = len(batch) // 2
        is_partial = draw < 0.45
        self.taken.update((each.window_id, each.name) for each in (batch[:middle] if is_partial else batch))
        if is_partial:
            raise PartialExportError(remaining=batch[middle:])
        if draw < 0.55:
            raise OSError("the connection broke after it")


def build_sink(backend: Backend, *, ordered: bool) -> ScriptedSink:
    sink = ScriptedSink(then=backend.export, ordered=ordered)
    sink.max_batch = 3  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    return sink


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_each_snapshot_has_one_fate_over_all_lives(
    lives: list[list[int]], ordered: bool, at_most_once: bool, seed: int
) -> None:
    async def run(directory: Path) -> None:
        random = Random(seed)
        backend = Backend(random)
        offered: set[tuple[str, str]] = set()
        for windows in lives:
            # What a life's backend takes after the death is another backend's.
            frozen, backend = backend, Backend(random)
            backend.taken = Counter(frozen.taken)
            options = serve(build_sink(backend, ordered=ordered), at_most_once=at_most_once, catch_up_s=0.0)
            life = Life(directory, options, random=draw(seed))
            await life.delivery.start()
            for size in windows:
                window = build_window(size, start=60.0 * len(offered))
                offered |= {(each.window_id, each.name) for each in window}
                await life.hand_over(window)
                assert life.delivery.ledgers["sink"].balance() == 0
                for _ in range(random.randint(0, 5)):
                    await asyncio.sleep(0.001)
            directory = await life.die()
            at_death = Counter(backend.taken)
            await life.delivery.close(0.05)
            await life.outbox.close()
            backend = Backend(random)
            backend.taken = at_death
        backend.is_well = True
        settings = serve(build_sink(backend, ordered=ordered), at_most_once=at_most_once, catch_up_s=0.0)
        async with living(directory, settings) as life:
            ledger = life.delivery.ledgers["sink"]
            await until(lambda: not ledger.waiting)
            assert ledger.closed == len(offered)
            assert ledger.balance() == 0
            assert ledger.dropped == 0
            await until(lambda: not life.outbox.size_bytes)
            missing = len(offered - set(backend.taken))
            if at_most_once:
                assert max(backend.taken.values(), default=1) == 1
                assert missing <= ledger.uncertain
            else:
                assert missing == ledger.quarantined + ledger.uncertain == 0

    with TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory) / "a"))
