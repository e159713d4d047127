"""The tables of the outbox: one transaction a call, all in one thread."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.stored import Committed, Cut, Recovered, Sealed, SinkAccount


class Store:
    """What `Outbox` does, synchronously; the methods have the arguments of its methods."""

    recovered: Recovered
    state_id: int
    size_bytes: int
    is_failing: bool
    last_error: str
    failures: int
    set_aside: Path | None

    @classmethod
    def open(cls, directory: Path, *, max_bytes: int, fsync: bool) -> "Store":
        """Open or make the database of a directory."""
        raise NotImplementedError

    def commit(
        self,
        sealed: Sealed | None,
        cuts: Sequence[Cut],
        accounts: Mapping[str, SinkAccount],
        merging: Mapping[str, Sequence[MetricSnapshot] | None],
    ) -> Committed:
        """Store a checkpoint and windows."""
        raise NotImplementedError

    def load(self, number: int, sink: str, part: int) -> list[MetricSnapshot]:
        """Return a part."""
        raise NotImplementedError

    def settle(
        self,
        sink: str,
        number: int,
        part: int,
        remaining: Sequence[MetricSnapshot] | None,
        account: SinkAccount,
    ) -> None:
        """Mark a part."""
        raise NotImplementedError

    def attempt(self, sink: str, number: int, part: int) -> None:
        """Note an attempt."""
        raise NotImplementedError

    def discard(self, sink: str, numbers: Collection[int], account: SinkAccount) -> None:
        """Let windows go."""
        raise NotImplementedError

    def note_sinks(self, names: Mapping[str, float | None], now: float) -> None:
        """Note which sinks are configured."""
        raise NotImplementedError

    def forget_sink(self, name: str) -> None:
        """Let a sink go."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the database."""
        raise NotImplementedError


__all__ = ["Store"]
