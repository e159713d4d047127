"""A daemon with everything around it, driven step by step through any number of lives.

The parts are the real ones, put together by `Daemon` itself; only time, the store's thread and chance are the
test's, so that a schedule can have the process die between any two rounds of its event loop.
"""

import shutil
import socket
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

from aiokpl_metricsd.config import Configuration
from aiokpl_metricsd.daemon import Daemon
from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.listener import listen
from aiokpl_metricsd.state import open_state
from tests.daemon.aggregation import BEGIN
from tests.daemon.schedules.backends import Backend, Item, Mood, Process, build_sink
from tests.daemon.schedules.life import Life
from tests.daemon.schedules.lineup import INTERVAL_S, TRAITS, Lineup
from tests.daemon.schedules.machine import DiedError, Disk, StoreInTurn, Time, run_inline
from tests.daemon.schedules.producers import (
    Content,
    Fate,
    Frame,
    Mischief,
    Producer,
    Shape,
    spoil,
)

LANES = 2
FRONT = 2
ROWS = 3

# No example takes longer to deliver everything.
_DRAIN_S = 600.0


class World:
    """What a schedule moves.

    Attributes:
        lineup: which sinks there are.
        is_exact: nothing has happened after which windows may be sent twice under two names.
        hasty_ends: of daemons, in the second of their start: their windows end ahead of the clock.
        farthest_back_s: how far the wall was behind what it once showed.
    """

    def __init__(self, directory: Path, outbox_max_bytes: int, seed: int) -> None:
        self.time = Time(float(BEGIN))
        self.disk = Disk()
        self.backends = {name: Backend(name, traits) for name, traits in TRAITS.items()}
        self.producers = [Producer(number) for number in range(ROWS + 1)]
        self.frames: list[Frame] = []
        self.is_exact = True
        self.hasty_ends = 0
        self.farthest_back_s = 0.0
        self._latest_s = self._started_s = self.time.time()
        self._directory = directory
        self._outbox_max_bytes = outbox_max_bytes
        self._random = Random(seed)
        self.lineup = Lineup({name: partial(self._build_sink, name) for name in TRAITS})
        self._lives = 0
        self._deaths = 0
        self._last_data = b""
        self._life: Life | None = None
        self._process = Process()
        self._front = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    @property
    def life(self) -> Life:
        assert self._life is not None
        return self._life

    @contextmanager
    def patched(self) -> Generator[None]:
        """Give the daemons this world's time, disk and threads."""
        delivery = partial(
            Delivery,
            clock=self.time.monotonic,
            wall_clock=self.time.time,
            random=self._random.random,
            sleep=self.time.sleep,
        )
        with ExitStack() as stack:
            for target, stand_in in (
                ("aiokpl_metricsd.daemon.Delivery", delivery),
                ("aiokpl_metricsd.outbox.StoreThread", partial(StoreInTurn, self.disk)),
                ("aiokpl_metricsd.storing.segment.os", self.disk),
                ("aiokpl_metricsd.delivering.marks.to_thread", SimpleNamespace(run_sync=run_inline)),
                ("aiokpl_metricsd.roster.asyncio.to_thread", run_inline),
            ):
                stack.enter_context(mock.patch(target, stand_in))
            stack.callback(self._front.close)
            for producer in self.producers:
                stack.callback(producer.disconnect)
            stack.callback(self.time.end)
            yield

    # ---- lives

    async def start(self) -> None:
        """Start a daemon on what the last one left."""
        self._lives += 1
        self._started_s = self.time.time()
        self._process = Process()
        path = self._directory / f"{self._lives}.sock"
        listener = listen([str(path)], mode=0o600, group=None, lane=True)
        state = open_state(str(self._state_dir), outbox_max_bytes=self._outbox_max_bytes)
        self.disk.wrap(state.outbox._store)
        daemon = Daemon(self._configure(), listener, clock=self.time, state=state)
        jobs = state.outbox._thread
        assert isinstance(jobs, StoreInTurn)
        self._life = Life(daemon, self._process, jobs)
        self._front.connect(str(path))
        for producer in self.producers[:LANES]:
            producer.connect(str(path))
        for producer in self.producers[:LANES]:
            producer.flush()
        self.check()
        await self.rest()

    async def stop(self) -> None:
        """End the daemon in order."""
        life = self.life
        self.hasty_ends += self.time.time() < self._started_s + 2.0
        await self.do_disk(stalls=False)
        life.daemon.stop()
        await self._run_out(life)
        self.check()
        # A task that is left behind ends with the process.
        self._process.is_dead = True
        self._end(life, lost=life.unsafe)

    async def die(self) -> None:
        """Let the daemon's process die, and start the next one on what it leaves."""
        life = self.life
        self.time.fuse_rounds = None
        self._read_answers()
        left = self._state_dir
        self._process.is_dead = True
        self._deaths += 1
        shutil.copytree(left, self._state_dir, ignore=shutil.ignore_patterns("ballast", "lock"))
        self._end(life, lost=[*life.fresh, *life.unsafe])
        await self._bury(life)
        shutil.rmtree(left)
        await self.start()

    async def abandon(self) -> None:
        """Leave nothing behind, whatever has failed."""
        life = self._life
        self.time.fuse_rounds = None
        if life is not None and not life.task.done():
            self._process.is_dead = True
            await self._bury(life)

    async def _bury(self, life: Life) -> None:
        """Let what is left of a dead process end; the world does not notice."""
        now, faults = self.time.now, (self.disk.fails_journal, self.disk.fails_outbox)
        self.disk.fails_journal = self.disk.fails_outbox = self.disk.is_stalled = False
        for _ in range(life.jobs.waiting):
            life.jobs.go_on()
        if not life.daemon._stopping.is_set():
            life.daemon.stop()
        await self._run_out(life)
        await self.time.settle()
        self.time.now = now
        self.disk.fails_journal, self.disk.fails_outbox = faults

    async def _run_out(self, life: Life) -> None:
        await self.time.run(life.task, 60.0)

    def _end(self, life: Life, lost: Sequence[Frame]) -> None:
        for frame in lost:
            if frame.fate is Fate.CERTAIN:
                frame.fate = Fate.MAYBE
        if life.is_unstored:
            self.is_exact = False
        for backend in self.backends.values():
            backend.may_repeat |= backend.recent
            backend.recent.clear()
        for producer in self.producers[:LANES]:
            producer.disconnect()

    @property
    def _state_dir(self) -> Path:
        return self._directory / "state" / str(self._deaths)

    def _configure(self) -> Configuration:
        return Configuration(
            interval_s=INTERVAL_S,
            grace_s=0.5,
            state_dir=str(self._state_dir),
            journal_max_bytes=2_000,
            shutdown_timeout_s=1.0,
            sinks=self.lineup.build_options(),
        )

    def _build_sink(self, name: str) -> Any:  # noqa: ANN401 - a sink
        return build_sink(self.backends[name], self._process, self.time)

    # ---- at rest

    async def rest(self) -> None:
        """Let the daemon do what it can do now, and look at what it says."""
        await self.time.settle()
        self._read_answers()
        life = self.life
        is_whole = life.is_whole and life.daemon._state is not None and life.daemon._state.journal.is_writable
        if not is_whole:
            life.unsafe += life.fresh
        life.fresh.clear()
        life.is_whole = True
        if not (self.disk.is_stalled or self.disk.outbox_failures or life.daemon._reloading):
            for backend in self.backends.values():
                backend.recent.clear()
        self.check()

    def _read_answers(self) -> None:
        for producer in self.producers[:LANES]:
            for frame, is_journaled in producer.read_answers():
                if not is_journaled:
                    self.life.unsafe.append(frame)

    def check(self) -> None:
        """Every equation balances, whatever is going on."""
        daemon = self.life.daemon
        ledger = daemon.ledger
        assert daemon.lanes is not None
        assert ledger.balance_datagrams() == 0
        assert ledger.balance_events(daemon.aggregator.events_open) == 0
        assert ledger.balance_lanes(len(daemon.lanes)) == 0
        for name, account in daemon.delivery.ledgers.items():
            assert account.balance() == 0, (name, account)
            columns = [value for value in account.as_dict().values() if isinstance(value, int)]
            assert min(columns) >= 0, (name, account)
        for _, producer, _ in daemon._decoder.read_producers():
            if producer.sent >= 0:
                assert producer.sent == producer.before + producer.received + producer.missing
        assert not self.life.has_failed

    # ---- steps

    async def perform(self, step: tuple[Any, ...]) -> None:
        """Do one step of a schedule; the process may die on the way."""
        try:
            await getattr(self, f"do_{step[0]}")(*step[1:])
            await self.rest()
        except DiedError:
            await self.die()

    async def do_send(self, number: int, shape: Shape, lag_s: int, mischief: Mischief, size: int) -> None:
        producer = self.producers[number]
        tag = f"f{len(self.frames)}"
        names = ("a", "b", "g", "h")
        count = len(self.frames) + 1
        values = [float(count * 2654435761 % 2**30 + each) for each in range(size)]
        dimensions = (("d", str(count % 2)), ("e", "x"))
        second = int(self.time.time()) + lag_s
        content = Content(tag, names[count % 4], dimensions, second, values)
        if number == ROWS:
            shape = Shape.ROWS
        elif shape is Shape.ROWS:
            shape = Shape.COLUMNS
        frame = producer.build(shape, content)
        self.frames.append(frame)
        if mischief is Mischief.GARBAGE:
            spoil(frame)
        if mischief is Mischief.GAP:
            frame.fate = Fate.NEVER
        elif number < LANES:
            producer.send(frame)
            if mischief is Mischief.REPEATED:
                producer.repeat()
        else:
            self._send_to_front(frame)
            if mischief is Mischief.REPEATED and number == FRONT:
                self._send_to_front(None)

    def _send_to_front(self, frame: Frame | None) -> None:
        try:
            self._front.send(self._last_data if frame is None else frame.data, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            if frame is not None:
                frame.fate = Fate.NEVER
            return
        if frame is not None:
            self.life.fresh.append(frame)
            self._last_data = frame.data if frame.sequence else self._last_data

    async def do_burst(self, sends: Sequence[tuple[Any, ...]]) -> None:
        for each in sends:
            await self.do_send(*each)

    async def do_wait(self, duration_s: float) -> None:
        await self.time.advance(duration_s)
        self._note_time()

    async def do_stall(self, duration_s: float, sends: Sequence[tuple[Any, ...]]) -> None:
        """Let the process be stopped, while producers go on."""
        for each in sends:
            await self.do_send(*each)
        self.time.now += duration_s
        self._note_time()

    async def do_set_wall(self, step_s: float) -> None:
        self.time.skew_s += step_s
        self._note_time()

    def _note_time(self) -> None:
        self._latest_s = max(self._latest_s, self.time.time())
        self.farthest_back_s = max(self.farthest_back_s, self._latest_s - self.time.time())

    async def do_mood(self, name: str, mood: Mood) -> None:
        self.backends[name].mood = mood

    async def do_journal(self, fails: bool) -> None:
        self.disk.fails_journal = fails

    async def do_outbox(self, fails: bool) -> None:
        self.disk.fails_outbox = fails

    async def do_disk(self, stalls: bool) -> None:
        self.disk.is_stalled = stalls
        for _ in range(self.life.jobs.waiting):
            self.life.jobs.go_on()

    async def do_reconnect(self, number: int, sends: Sequence[tuple[Any, ...]]) -> None:
        """Let a lane end, with answers that nobody reads, and be opened again."""
        self._read_answers()
        await self.do_burst(sends)
        await self.time.settle()
        self.producers[number].disconnect()
        await self.time.settle()
        self.producers[number].connect(self.life.daemon._listener.path)
        self.producers[number].flush()

    async def do_crash(self, rounds: int) -> None:
        self.time.fuse_rounds = rounds

    async def do_restart(self, changed: Sequence[str]) -> None:
        self.lineup.change(changed)
        await self.stop()
        await self.start()

    async def do_hurry(self, times: int, sends: Sequence[tuple[Any, ...]]) -> None:
        """Start daemon after daemon within one second, each with something to count."""
        for _ in range(times):
            await self.do_burst(sends)
            await self.rest()
            await self.do_restart(())

    async def do_reload(self, changed: Sequence[str]) -> None:
        self.lineup.change(changed)
        configuration = self._configure()
        self.life.daemon.reload(lambda: configuration)

    # ---- the end

    async def finish(self) -> None:
        """Let everything be well again, and all be delivered."""
        if self.time.fuse_rounds is not None:
            await self.die()
        for backend in self.backends.values():
            backend.mood = Mood.WELL
        await self.do_disk(stalls=False)
        self.disk.fails_journal = self.disk.fails_outbox = False
        await self.rest()
        # What ran into the outage is written down again after a while; then all sinks come back.
        await self.do_wait(20.0)
        await self.rest()
        await self.stop()
        self.lineup.configured = {*TRAITS}
        await self.start()
        for producer in self.producers[:LANES]:
            producer.flush()
        await self.rest()
        assert not [frame for each in self.producers[:LANES] for frame in each.unacknowledged]
        # The longer windows of a sink end with the daemon.
        await self.stop()
        await self.start()
        ledgers = self.life.daemon.delivery.ledgers
        waited_s = 0.0
        while any(each.waiting for each in ledgers.values()):
            assert waited_s < _DRAIN_S, ledgers
            await self.do_wait(10.0)
            await self.rest()
            waited_s += 10.0

    def total(self, name: str) -> tuple[Counter[str], Counter[str]]:
        """Return what a backend has, in events and sums by name, each series of each window once."""
        counts: Counter[str] = Counter()
        sums: Counter[str] = Counter()
        for item, content in self.backends[name].contents.items():
            counts[item.name] += content.events
            sums[item.name] += int(content.total)
        return counts, sums

    def items(self, name: str) -> set[Item]:
        return set(self.backends[name].contents)


__all__ = ["World"]
