"""Whatever comes in and whatever fails, every equation of the ledger balances, and no event is lost or twice.

Random schedules drive the real daemon, from its sockets to its sinks, through outages, stalls, faults of the
disk, steps of the clock, restarts and deaths between any two rounds of its event loop.
`SCHEDULES=5000 pytest tests/daemon/test_ledger_property.py` tries more of them.
"""

import asyncio
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from tests.daemon.schedules.backends import Backend, Mood
from tests.daemon.schedules.lineup import INTERVAL_S, OPTIONAL, STANDING, TRAITS
from tests.daemon.schedules.producers import Fate, Mischief, Shape
from tests.daemon.schedules.world import World

SCHEDULES = int(os.environ.get("SCHEDULES", "40"))

# A few hundred bytes are a window or two: the oldest must go.
MAX_BYTES = st.sampled_from([1 << 30, 1 << 30, 1 << 30, 400])

# Most are on time; some are late, some early, some far ahead.
LAGS_S = st.sampled_from([0, 0, 0, -1, -3, -6, -30, 2, 4, 7, 10_000])
SEND = st.tuples(
    st.integers(0, 3),
    st.sampled_from(Shape),
    LAGS_S,
    st.sampled_from([Mischief.NONE] * 5 + [Mischief.REPEATED, Mischief.GAP, Mischief.GARBAGE]),
    st.integers(1, 4),
)
SENDS = st.lists(SEND, min_size=1, max_size=4)
DURATIONS_S = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 4.5, 13.0])
CHANGES = st.lists(st.sampled_from([*OPTIONAL, *STANDING]), max_size=3, unique=True)

# The first is what a failing schedule shrinks to.
STEPS = (
    st.tuples(st.just("wait"), DURATIONS_S),
    st.tuples(st.just("wait"), DURATIONS_S),
    st.tuples(st.just("wait"), DURATIONS_S),
    st.tuples(st.just("burst"), SENDS),
    st.tuples(st.just("burst"), SENDS),
    st.tuples(st.just("burst"), SENDS),
    st.tuples(st.just("send"), SEND).map(lambda step: (step[0], *step[1])),
    st.tuples(st.just("stall"), DURATIONS_S, SENDS),
    st.tuples(st.just("set_wall"), st.sampled_from([-90.0, -9.0, -3.0, -1.0, 1.0, 5.0, 30.0])),
    st.tuples(st.just("mood"), st.sampled_from([*TRAITS]), st.sampled_from(Mood)),
    st.tuples(st.just("mood"), st.sampled_from([*TRAITS]), st.sampled_from(Mood)),
    st.tuples(st.just("journal"), st.booleans()),
    st.tuples(st.just("outbox"), st.booleans()),
    st.tuples(st.just("disk"), st.booleans()),
    st.tuples(st.just("reconnect"), st.integers(0, 1), SENDS),
    st.tuples(st.just("crash"), st.integers(0, 60)),
    st.tuples(st.just("restart"), CHANGES),
    st.tuples(st.just("reload"), CHANGES),
    st.tuples(st.just("hurry"), st.integers(2, 7), SENDS),
)
SCHEDULE = st.lists(st.one_of(*STEPS), min_size=15, max_size=40)


class Said(logging.Handler):
    """Keeps what the daemon says of faults of its own."""

    def __init__(self) -> None:
        super().__init__(logging.CRITICAL)
        self.faults: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.faults.append(logging.Formatter().format(record))


@contextmanager
def listening() -> Generator[Said]:
    """Listen to the daemon's log, which nobody else gets meanwhile."""
    logger = logging.getLogger("aiokpl_metricsd")
    said = Said()
    kept = logger.level, logger.propagate
    logger.addHandler(said)
    logger.setLevel(logging.CRITICAL)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(said)
        # Not by its attribute: loggers below keep what they would say.
        logger.setLevel(kept[0])
        logger.propagate = kept[1]


def check_events(world: World) -> None:
    """Each event is in the windows once, and in each sink that was always there."""
    counts, sums = world.total("keyed")
    for frame in world.frames:
        found = counts[frame.tag]
        assert found <= 1, f"{frame.tag} is there {found} times"
        assert found or frame.fate is not Fate.CERTAIN, f"{frame.tag} is lost"
        assert not found or frame.fate is not Fate.NEVER, f"{frame.tag} is there"
    there = [frame for frame in world.frames if counts[frame.tag]]
    for name in {name for frame in world.frames for name in frame.counts}:
        assert counts[name] == sum(frame.counts[name] for frame in there), name
        assert sums[name] == sum(frame.sums[name] for frame in there), name
    ledger = world.life.daemon.ledger
    assert ledger.events_closed == counts.total(), (ledger.as_dict(), counts)
    for name in STANDING:
        if is_complete(world, name):
            assert world.total(name) == (counts, sums), name


def is_complete(world: World, name: str) -> bool:
    """Return whether all that a sink got was delivered, by its own account."""
    account = world.life.daemon.delivery.ledgers[name]
    return account.closed == account.delivered + account.merged


def check_windows(world: World) -> None:
    """A window has one interval, and no two of them overlap unless the clock was set back."""
    found = {
        (item.window_id, content.start, content.end)
        for item, content in world.backends["keyed"].contents.items()
    }
    assert len({window_id for window_id, _, _ in found}) == len(found)
    bounds = sorted((start, end) for _, start, end in found)
    assert all(start < end for start, end in bounds)
    clock_steps = world.life.daemon.ledger.clock_steps
    # However often a daemon is restarted within a second, that alone does not set the clock back.
    is_set_back = world.farthest_back_s > 0.0 and world.farthest_back_s + world.hasty_ends > INTERVAL_S
    assert clock_steps == 0 or is_set_back
    if clock_steps == 0:
        assert all(before[1] <= after[0] for before, after in pairwise(bounds)), bounds


def check_sink(world: World, name: str) -> None:
    """What a sink says was delivered is what the backend has, once."""
    backend = world.backends[name]
    account = world.life.daemon.delivery.ledgers[name]
    assert (account.waiting, account.merging) == (0, 0)
    if name not in world.lineup.removed:
        check_account(backend, account)
    assert not backend.changed, name
    repeated = {item for item, count in backend.takes.items() if count > 1}
    if backend.traits.at_most_once:
        assert not repeated
    elif not backend.traits.remembers:
        assert repeated <= backend.may_repeat
    else:
        assert len(set(backend.lines)) == len(backend.lines)


def check_account(backend: Backend, account: SinkLedger) -> None:
    """What is not delivered is counted by its reason."""
    uncounted = account.expired + account.quarantined + account.dropped + account.uncertain
    assert account.delivered <= len(backend.takes) <= account.delivered + uncounted, backend.name


@settings(
    max_examples=SCHEDULES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize="SCHEDULES" not in os.environ,
)
@given(SCHEDULE, MAX_BYTES, st.integers(0, 2**32))
@pytest.mark.timeout(0 if "SCHEDULES" in os.environ else 120)
def test_every_equation_balances_and_each_event_is_in_one_window(
    schedule: list[tuple[Any, ...]], max_bytes: int, seed: int
) -> None:
    async def run(directory: Path) -> None:
        world = World(directory, max_bytes, seed)
        with world.patched(), listening() as said:
            try:
                await world.start()
                for step in schedule:
                    await world.perform(step)
                await world.finish()
                if world.is_exact:
                    if is_complete(world, "keyed"):
                        check_events(world)
                        check_windows(world)
                    for name in TRAITS:
                        check_sink(world, name)
                await world.stop()
            finally:
                await world.abandon()
            assert not said.faults, said.faults

    with TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))
