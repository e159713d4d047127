"""Checkpoints and closed windows <-> a database in the state directory, by one thread.

What it promises: a transaction is there whole or not at all, whenever the process dies; no event loop waits
for the disk; `max_bytes` holds, past which the oldest window goes first, named to the caller; one daemon at a
time. What it refuses: a directory in use, a database of a newer version or of another application. A damaged
one is set aside and begun anew, and said.

Order is that of the calls: each is one transaction in one thread. A failed one (`StoreError`) has changed
nothing. `storing/` has the parts: `stored` (the values), `database` (the file), `store` (the tables),
`batches`, `recovery`, `snapshot_codec`, `checksum`, `ballast`, `store_thread`.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from aiokpl_metricsd.errors import LostPartError, StoreError
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.store import Store
from aiokpl_metricsd.storing.store_thread import StoreThread
from aiokpl_metricsd.storing.stored import (
    Batch,
    Committed,
    Cut,
    Evicted,
    Mark,
    OpenPart,
    Recovered,
    RecoveredPart,
    RecoveredSink,
    Sealed,
    SinkAccount,
    StoredWindow,
)


class Outbox:
    """The outbox of one state directory. Use `open` to make one; its methods are called on one event loop."""

    def __init__(self, store: Store) -> None:
        """Take over a store that nothing else uses."""
        self._store = store
        self._thread = StoreThread()
        self._recovered: Recovered | None = store.recovered

    @classmethod
    def open(cls, directory: Path, *, max_bytes: int, fsync: bool = False) -> "Outbox":
        """Open the outbox of a directory, made where it is missing, and read what the last daemon left.

        Synchronous: to be called before the event loop runs.

        Args:
            directory: the daemon's own, closed to others.
            max_bytes: of stored snapshots; past it the oldest window goes.
            fsync: whether a transaction survives the machine as well, not only the process.

        Raises:
            ConfigurationError: the directory cannot be used, or the database is not this version's.
            StateInUseError: another daemon uses it.
        """
        return cls(Store.open(directory, max_bytes=max_bytes, fsync=fsync))

    @property
    def state_id(self) -> int:
        """63 random bits, drawn when the database was made."""
        return self._store.state_id

    @property
    def recovered(self) -> Recovered:
        """What the last daemon left.

        Raises:
            RuntimeError: after `forget_recovered`.
        """
        if self._recovered is None:
            raise RuntimeError("what was recovered is forgotten")
        return self._recovered

    def forget_recovered(self) -> None:
        """Let the memory of `recovered` go, which may be much."""
        self._recovered = None

    @property
    def size_bytes(self) -> int:
        """Encoded snapshots in the outbox: what `max_bytes` bounds."""
        return self._store.size_bytes

    @property
    def is_failing(self) -> bool:
        """Whether the last transaction failed."""
        return self._store.is_failing

    @property
    def last_error(self) -> str:
        """What the last failure said; "" when there was none."""
        return self._store.last_error

    @property
    def failures(self) -> int:
        """Transactions that failed."""
        return self._store.failures

    @property
    def is_damaged(self) -> bool:
        """Whether the database was found damaged: the next start sets it aside, and the journal with it."""
        return self._store.is_damaged

    @property
    def set_aside(self) -> Path | None:
        """Where the damaged database is that was found at this start; None where there was none."""
        return self._store.set_aside

    async def commit(
        self,
        sealed: Sealed | None,
        cuts: Sequence[Cut],
        accounts: Mapping[str, SinkAccount],
        merging: Mapping[str, Sequence[MetricSnapshot] | None],
    ) -> Committed:
        """Store a checkpoint, windows, and the ledgers that agree with them, in one transaction.

        Args:
            sealed: the checkpoint; None where there is none.
            cuts: the windows, for each sink that gets them. Snapshots and batches must not change any more.
            accounts: of the sinks that changed.
            merging: what a sink holds for a longer window, by the sink's name: it takes the place of what is
                stored. None or empty: nothing is held any more. A sink that is not named keeps what is
                stored.

        Raises:
            StoreError: it could not; nothing was changed.
        """
        cuts, accounts, merging = tuple(cuts), dict(accounts), dict(merging)
        return await self._thread.submit(lambda: self._store.commit(sealed, cuts, accounts, merging))

    async def load(self, window_number: int, sink: str, part: int) -> list[MetricSnapshot]:
        """Return a part of a stored window.

        Raises:
            LostPartError: it is damaged, or not there any more: settled, discarded, evicted.
            StoreError: it cannot be read now.
        """
        return await self._thread.submit(lambda: self._store.load(window_number, sink, part))

    def settle(self, sink: str, account: SinkAccount) -> "asyncio.Future[None]":
        """Mark parts of a sink's windows, in one transaction with its account. It need not be awaited.

        A window that is not there any more, evicted meanwhile, is none to be marked; the account is stored.

        Returns:
            Done when it is stored; raises a StoreError where it could not, and nothing was changed then.
        """
        return self._thread.submit(lambda: self._store.settle(sink, account))

    async def attempt(self, sink: str, number: int, part: int) -> None:
        """Note that a part is about to be sent; stored when this returns.

        Raises:
            LostPartError: it is not there any more.
            StoreError: it could not. In both cases the part must not be sent.
        """
        await self.announce(sink, number, part)

    def announce(self, sink: str, number: int, part: int) -> "asyncio.Future[None]":
        """Note that a part is about to be sent, as `attempt` does. It need not be awaited.

        Returns:
            Done when it is stored; raises a StoreError where it could not.
        """
        return self._thread.submit(lambda: self._store.attempt(sink, number, part))

    async def discard(self, sink: str, numbers: Collection[int], account: SinkAccount) -> None:
        """Let windows go, expired or dropped, in one transaction with the account.

        Raises:
            StoreError: it could not; nothing was changed.
        """
        chosen = frozenset(numbers)
        await self._thread.submit(lambda: self._store.discard(sink, chosen, account))

    async def note_sinks(self, names: Mapping[str, float | None], now: float) -> None:
        """Note which sinks are configured; the others keep their windows, and when they went is noted.

        Args:
            names: how old a sink's windows may become, or None, by the sink's name.
            now: epoch seconds.

        Raises:
            StoreError: it could not; nothing was changed.
        """
        names = dict(names)
        await self._thread.submit(lambda: self._store.note_sinks(names, now))

    async def forget_sink(self, name: str) -> None:
        """Let everything go that is stored for a sink.

        Raises:
            StoreError: it could not; nothing was changed.
        """
        await self._thread.submit(lambda: self._store.forget_sink(name))

    def abandon(self) -> None:
        """Give the directory back at once, before anything was asked for."""
        self._thread.end()
        self._store.close()

    async def close(self) -> None:
        """Do what was asked for, then close the database and give the directory back. Once.

        On a disk that hangs it does not return; the process may end all the same.
        """
        closing = self._thread.submit(self._store.close)
        self._thread.end()
        await closing


__all__ = [
    "Batch",
    "Committed",
    "Cut",
    "Evicted",
    "LostPartError",
    "Mark",
    "OpenPart",
    "Outbox",
    "Recovered",
    "RecoveredPart",
    "RecoveredSink",
    "Sealed",
    "SinkAccount",
    "StoreError",
    "StoredWindow",
]
