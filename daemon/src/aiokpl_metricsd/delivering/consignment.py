"""One window on its way to one sink: which batch is sent next, and what follows from each answer. Pure.

**Bisecting.** A batch that is refused for good is halved until what is refused is one datum, the poison: that
one is quarantined, all others are delivered. A poison among n costs at most log2(n) + 1 refused requests.

**A backend that refuses everything** looks the same at first: bad credentials refuse each half as well. A
datum is therefore poison only where the backend has shown that it accepts others of this window. Until then a
datum that is refused alone is a *suspect*; after one, the largest batch left is tried next, so that suspects
come from all over the window. With the first acceptance the suspects are convicted. With `MAX_SUSPECTS` of
them, or nothing left to try, and no acceptance, the backend refuses, not the data: everything is put together
again and the window waits as after a failure that may be retried. So a window of 100,000 costs at most 4 * 17
requests before each backoff. Which half comes first is drawn, so that a window of which most is poison does
not try the same few data each time.

The acceptance is forgotten after `MAX_REFUSED_IN_ROW` refusals without another one, as credentials may expire
in the middle. A window that stalled is believed to be poison when the backend accepted another window since
(`vouch`). After `MAX_REFUSED` refusals there is a pause in any case: much poison costs time, not requests
without end.

Snapshots are never divided, so every batch is whole series: a backend where a repeat replaces is served as
well. The order within a window has no meaning and is not kept.

Stored batches fit in here: the window may come as the several batches that a sink cut it into.
"""

from collections.abc import Callable, Sequence
from itertools import chain

from msgspec import Struct

from aiokpl_metricsd.errors import PartialExportError
from aiokpl_metricsd.snapshot import MetricSnapshot

MAX_SUSPECTS = 4
MAX_REFUSED_IN_ROW = 64
MAX_REFUSED = 256

Batch = Sequence[MetricSnapshot]


class Effect(Struct, frozen=True):
    """What follows from an answer.

    Attributes:
        delivered_count: snapshots that the backend took.
        quarantined: snapshots that are refused for good.
        pause: whether to wait before the next batch.
    """

    delivered_count: int = 0
    quarantined: Batch = ()
    pause: bool = False


class Consignment:
    """One window on its way to one sink.

    Args:
        number: of the window, ascending with each that the sink gets.
        batches: what is to be sent; one batch, unless the sink cut the window.
        random: returns a number in `[0, 1)`.
        window_end: epoch seconds; 0.0 where the window has no time.

    Attributes:
        number: as given.
        window_end: as given.
        remaining_count: snapshots that have no fate yet.
        failures: how often the worker had to wait on account of this window.
        is_stalled: the backend refused everything of it, and nothing speaks for the backend since.
    """

    def __init__(
        self,
        number: int,
        batches: Sequence[Batch],
        random: Callable[[], float],
        *,
        window_end: float = 0.0,
    ) -> None:
        """Start with everything to be sent."""
        self.number = number
        self.window_end = window_end
        self.remaining_count = sum(map(len, batches))
        self.failures = 0
        self.is_stalled = False
        self._random = random
        self._batches = [batch for batch in reversed(batches) if batch]
        self._parts: list[Batch] = []
        self._suspects: list[MetricSnapshot] = []
        self._current: Batch | None = None
        self._accepts = False
        self._refused = 0
        self._refused_in_row = 0

    def next_batch(self) -> Batch | None:
        """Return what to send next, None where nothing is left. The same again until it is answered."""
        if self._current is None and (self._parts or self._batches):
            self._current = self._parts.pop() if self._parts else self._batches.pop()
        return self._current

    def vouch(self) -> None:
        """Believe that the backend accepts: it accepted another window after this one stalled."""
        self.is_stalled = False
        self._accepts = True
        self._refused_in_row = 0

    def discard(self) -> int:
        """Give up what has no fate yet and return how many snapshots these are."""
        count, self.remaining_count = self.remaining_count, 0
        self._batches.clear()
        self._parts.clear()
        self._suspects.clear()
        self._current = None
        return count

    def accept(self) -> Effect:
        """Take the answer that the whole batch was taken."""
        count = len(self._answered())
        self.remaining_count -= count
        return Effect(count, self._convict())

    def split(self, error: PartialExportError) -> Effect:
        """Take the answer that some were taken: the remaining go again, at once where that helped."""
        batch = self._answered()
        remaining, rejected = match_partial(batch, error)
        if remaining:
            self._parts.append(remaining)
        if len(remaining) == len(batch):
            return Effect(pause=True)
        self.remaining_count -= len(batch) - len(remaining)
        delivered = len(batch) - len(remaining) - len(rejected)
        if delivered:
            quarantined = (*self._convict(), *rejected)
            return Effect(delivered, quarantined, pause=bool(remaining) and error.retry_after_s is not None)
        # What the sink rejects by itself says nothing of the backend, so it convicts nobody.
        if self._suspects and not (self._parts or self._batches):
            return Effect(quarantined=tuple(rejected), pause=self._stall().pause)
        return Effect(quarantined=tuple(rejected), pause=bool(remaining))

    def refuse(self) -> Effect:
        """Take the answer that the batch is refused as it is."""
        batch = self._answered()
        self._refused += 1
        self._refused_in_row += 1
        if self._refused_in_row >= MAX_REFUSED_IN_ROW:
            self._accepts = False
        quarantined: Batch = ()
        if len(batch) > 1:
            self._halve(batch)
        elif self._accepts:
            self.remaining_count -= 1
            quarantined = batch
        else:
            self._suspects.extend(batch)
            if len(self._suspects) >= MAX_SUSPECTS or not (self._parts or self._batches):
                return self._stall()
            self._turn_to_largest()
        pause = self._refused >= MAX_REFUSED
        if pause:
            self._refused = 0
        return Effect(quarantined=quarantined, pause=pause)

    def _answered(self) -> Batch:
        if self._current is None:
            raise RuntimeError("an answer to no batch")
        batch, self._current = self._current, None
        return batch

    def _halve(self, batch: Batch) -> None:
        middle = len(batch) // 2
        halves = [batch[:middle], batch[middle:]]
        if self._random() < 0.5:  # noqa: PLR2004 - either half, equally likely
            halves.reverse()
        self._parts.extend(halves)

    def _turn_to_largest(self) -> None:
        """Let the largest part be the next."""
        if self._parts:
            largest = max(range(len(self._parts)), key=lambda index: len(self._parts[index]))
            self._parts.append(self._parts.pop(largest))

    def _convict(self) -> tuple[MetricSnapshot, ...]:
        """Note that the backend accepts; return those that were refused alone until now."""
        self._accepts = True
        self.is_stalled = False
        self._refused_in_row = 0
        poison = tuple(self._suspects)
        self._suspects.clear()
        self.remaining_count -= len(poison)
        return poison

    def _stall(self) -> Effect:
        """Put everything together again."""
        self._batches.append([*self._suspects, *chain.from_iterable(self._parts)])
        self._suspects.clear()
        self._parts.clear()
        self._refused = self._refused_in_row = 0
        self.is_stalled = True
        return Effect(pause=True)


def match_partial(batch: Batch, error: PartialExportError) -> tuple[Batch, Batch]:
    """Return which snapshots of the batch are remaining, and which are rejected.

    Only what is in the batch counts, and only once; what is in both lists is rejected. A sink may answer with
    copies: they are recognised by name and dimensions, which differ within a window.
    """
    known = {id(snapshot) for snapshot in batch}
    if all(id(snapshot) in known for snapshot in chain(error.rejected, error.remaining)):
        rejected_ids = {id(snapshot) for snapshot in error.rejected}
        remaining_ids = {id(snapshot) for snapshot in error.remaining} - rejected_ids
        return (
            [snapshot for snapshot in batch if id(snapshot) in remaining_ids],
            [snapshot for snapshot in batch if id(snapshot) in rejected_ids],
        )
    rejected = {(snapshot.name, snapshot.dimensions) for snapshot in error.rejected}
    remaining = {(snapshot.name, snapshot.dimensions) for snapshot in error.remaining} - rejected
    return (
        [snapshot for snapshot in batch if (snapshot.name, snapshot.dimensions) in remaining],
        [snapshot for snapshot in batch if (snapshot.name, snapshot.dimensions) in rejected],
    )


__all__ = [
    "MAX_REFUSED",
    "MAX_REFUSED_IN_ROW",
    "MAX_SUSPECTS",
    "Batch",
    "Consignment",
    "Effect",
    "match_partial",
]
