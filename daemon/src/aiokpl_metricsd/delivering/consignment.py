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

**Parts.** A window comes in the batches that its sink cut it into, in memory or as numbers of the outbox,
which are loaded one by one (`next_part`, `load`). Whatever is halved or suspected keeps its part, so that
each part has an outcome of its own: when all of it has a fate (`take_done`), or, with what remains, when the
window goes back to the others (`let_go`).
"""

from collections.abc import Callable, Collection, Sequence
from itertools import chain
from math import inf

from aiokpl_metricsd.delivering.answer import Batch, Effect, Outcome, match_partial
from aiokpl_metricsd.errors import PartialExportError
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.stored import StoredWindow

MAX_SUSPECTS = 4
MAX_REFUSED_IN_ROW = 64
MAX_REFUSED = 256


class Consignment:
    """One window on its way to one sink.

    Args:
        number: of the window, ascending with each that the sink gets.
        batches: what is to be sent; one batch, unless the sink cut the window.
        random: returns a number in `[0, 1)`.
        window_end: epoch seconds; 0.0 where the window has no time.
        stored: what the outbox has of it, in place of batches.

    Attributes:
        number: as given.
        window_end: as given.
        window_id: of the stored window.
        stored: the outbox's number of it; None where it is in memory alone.
        due_at: monotonic seconds; it is not sent before.
        counts: snapshots of each part that have no fate yet.
        remaining_count: their sum.
        failures: how often the worker had to wait on account of this window.
        load_failures: how often in a row a part could not be loaded.
        is_stalled: the backend refused everything of it, and nothing speaks for the backend since.
    """

    # A backlog may have thousands.
    __slots__ = (
        "_accepts",
        "_batches",
        "_current",
        "_outcomes",
        "_parts",
        "_random",
        "_refused",
        "_refused_in_row",
        "_suspects",
        "_waiting",
        "counts",
        "due_at",
        "failures",
        "is_stalled",
        "load_failures",
        "number",
        "remaining_count",
        "stored",
        "window_end",
        "window_id",
    )

    def __init__(
        self,
        number: int,
        batches: Sequence[Batch],
        random: Callable[[], float],
        *,
        window_end: float = 0.0,
        stored: StoredWindow | None = None,
    ) -> None:
        """Start with everything to be sent."""
        self.number = number
        self.window_end = window_end if stored is None else stored.window_end
        self.window_id = "" if stored is None else stored.window_id
        self.stored = None if stored is None else stored.number
        self.counts = [len(batch) for batch in batches] if stored is None else [*stored.counts]
        self.remaining_count = sum(self.counts)
        self.due_at = -inf
        self.failures = 0
        self.load_failures = 0
        self.is_stalled = False
        self._random = random
        # Parts of which nothing was tried, or that are together again; the last one goes first.
        self._waiting = [part for part in reversed(range(len(self.counts))) if self.counts[part]]
        self._batches: dict[int, Batch] = {} if stored is not None else dict(enumerate(batches))
        self._parts: list[tuple[int, Batch]] = []
        self._suspects: list[tuple[int, MetricSnapshot]] = []
        self._current: tuple[int, Batch] | None = None
        self._outcomes: dict[int, Outcome] = {}
        self._accepts = False
        self._refused = 0
        self._refused_in_row = 0
        if stored is not None:
            for part in sorted(stored.attempted):
                self._lose_attempted(part)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """What waits of a window that is in memory and together."""
        return tuple(self._batches[part] for part in reversed(self._waiting))

    @property
    def is_unstored(self) -> bool:
        """Whether the outbox never had it: it comes again from the journal, where that is not forgotten."""
        return self.stored is None and not self.window_id

    @property
    def current_part(self) -> int:
        """The part that the batch comes from which `next_batch` returned."""
        return self._asked()[0]

    @property
    def has_done(self) -> bool:
        """Whether `take_done` has anything to return."""
        return any(not self.counts[part] for part in self._outcomes)

    @property
    def is_divided(self) -> bool:
        """Whether the backend took some of a part, and the rest of that still waits."""
        return any(outcome.delivered and self.counts[part] for part, outcome in self._outcomes.items())

    def next_part(self) -> int | None:
        """Return which part must be loaded before `next_batch` is asked; None where none must."""
        if self._current is not None or self._parts or not self._waiting:
            return None
        return None if self._waiting[-1] in self._batches else self._waiting[-1]

    def load(self, part: int, batch: Batch) -> None:
        """Take a part out of the outbox."""
        self.load_failures = 0
        self._batches[part] = batch

    def lose(self, part: int) -> None:
        """Give up a part that the outbox cannot give back."""
        self.load_failures = 0
        self._waiting.remove(part)
        self._outcome_of(part).unreadable += self._take(part, self.counts[part])

    def next_batch(self) -> Batch | None:
        """Return what to send next, None where nothing is left. The same again until it is answered."""
        if self._current is None:
            if self._parts:
                self._current = self._parts.pop()
            elif self._waiting:
                part = self._waiting.pop()
                self._current = part, self._batches[part]
        return None if self._current is None else self._current[1]

    def note_attempt(self) -> None:
        """Note that the outbox has the part of the batch as attempted: it must be told what follows."""
        self._outcome_of(self.current_part)

    def vouch(self) -> None:
        """Believe that the backend accepts: it accepted another window after this one stalled."""
        self.is_stalled = False
        self._accepts = True
        self._refused_in_row = 0

    def discard(self) -> int:
        """Give up what has no fate yet and return how many snapshots these are."""
        count, self.remaining_count = self.remaining_count, 0
        self.counts = [0] * len(self.counts)
        self._waiting.clear()
        self._batches.clear()
        self._parts.clear()
        self._suspects.clear()
        self._outcomes.clear()
        self._current = None
        return count

    def evict(self) -> int:
        """Go on in memory alone with what is loaded; return how many snapshots are lost."""
        self.stored = None
        lost = [part for part in self._waiting if part not in self._batches]
        self._waiting = [part for part in self._waiting if part in self._batches]
        return sum(self._take(part, self.counts[part]) for part in lost)

    def adopt(self, stored: StoredWindow) -> None:
        """Be in the outbox from now on, with the parts that `batches` returned."""
        self.stored = stored.number
        self.window_id = stored.window_id
        self.counts = [*stored.counts]
        self._waiting = [*reversed(range(len(self.counts)))]
        self._batches.clear()

    def take_done(self) -> list[Outcome]:
        """Return the outcomes of the parts of which nothing waits any more, each once."""
        done = [outcome for part, outcome in self._outcomes.items() if not self.counts[part]]
        for outcome in done:
            del self._outcomes[outcome.part]
            self._batches.pop(outcome.part, None)
        return done

    def let_go(self) -> list[Outcome]:
        """Put everything together again; return the outcome of each part that is not as it was."""
        self._gather()
        outcomes = [*self._outcomes.values()]
        self._outcomes.clear()
        for outcome in outcomes:
            if self.counts[outcome.part]:
                outcome.remaining = self._batches[outcome.part]
            else:
                self._batches.pop(outcome.part, None)
        return outcomes

    def unload(self, keep: Collection[int] = ()) -> None:
        """Forget the parts that the outbox has; it lacks those that are to be kept."""
        for part in [part for part in self._batches if part not in keep]:
            del self._batches[part]

    def accept(self) -> Effect:
        """Take the answer that the whole batch was taken."""
        part, batch = self._answered()
        self._outcome_of(part).delivered += self._take(part, len(batch))
        return Effect(len(batch), self._convict())

    def split(self, error: PartialExportError) -> Effect:
        """Take the answer that some were taken: the remaining go again, at once where that helped."""
        part, batch = self._answered()
        remaining, rejected = match_partial(batch, error)
        if remaining:
            self._parts.append((part, batch if len(remaining) == len(batch) else remaining))
        if len(remaining) == len(batch):
            return Effect(pause=True)
        delivered = len(batch) - len(remaining) - len(rejected)
        outcome = self._outcome_of(part)
        outcome.delivered += self._take(part, delivered)
        outcome.quarantined += self._take(part, len(rejected))
        if delivered:
            quarantined = (*self._convict(), *rejected)
            return Effect(delivered, quarantined, pause=bool(remaining) and error.retry_after_s is not None)
        # What the sink rejects by itself says nothing of the backend, so it convicts nobody.
        if self._suspects and not self._has_more():
            return Effect(quarantined=tuple(rejected), pause=self._stall().pause)
        return Effect(quarantined=tuple(rejected), pause=bool(remaining))

    def refuse(self) -> Effect:
        """Take the answer that the batch is refused as it is."""
        part, batch = self._answered()
        self._refused += 1
        self._refused_in_row += 1
        if self._refused_in_row >= MAX_REFUSED_IN_ROW:
            self._accepts = False
        quarantined: Batch = ()
        if len(batch) > 1:
            self._halve(part, batch)
        elif self._accepts:
            self._outcome_of(part).quarantined += self._take(part, 1)
            quarantined = batch
        else:
            self._suspects.append((part, batch[0]))
            if len(self._suspects) >= MAX_SUSPECTS or not self._has_more():
                return self._stall()
            self._turn_to_largest()
        pause = self._refused >= MAX_REFUSED
        if pause:
            self._refused = 0
        return Effect(quarantined=quarantined, pause=pause)

    def give_up(self, uncertain: Batch | None = None) -> int:
        """Take it that nobody knows what became of the batch, or of some of it, which is not sent again.

        What is left of the batch still waits for its own answer. Returns how many are given up.
        """
        part, batch = self._answered()
        rest: Batch = ()
        if uncertain is not None:
            known = {(snapshot.name, snapshot.dimensions) for snapshot in uncertain}
            rest = [snapshot for snapshot in batch if (snapshot.name, snapshot.dimensions) not in known]
        count = len(batch) - len(rest)
        self._outcome_of(part).uncertain += self._take(part, count)
        if rest:
            self._current = part, rest
        return count

    def _lose_attempted(self, part: int) -> None:
        if part in self._waiting:
            self._waiting.remove(part)
            self._outcome_of(part).uncertain += self._take(part, self.counts[part])

    def _asked(self) -> tuple[int, Batch]:
        if self._current is None:
            raise RuntimeError("an answer to no batch")
        return self._current

    def _answered(self) -> tuple[int, Batch]:
        current, self._current = self._asked(), None
        return current

    def _outcome_of(self, part: int) -> Outcome:
        outcome = self._outcomes.get(part)
        if outcome is None:
            outcome = self._outcomes[part] = Outcome(part)
        return outcome

    def _take(self, part: int, count: int) -> int:
        self.counts[part] -= count
        self.remaining_count -= count
        return count

    def _has_more(self) -> bool:
        return bool(self._parts or self._waiting)

    def _halve(self, part: int, batch: Batch) -> None:
        middle = len(batch) // 2
        halves = [(part, batch[:middle]), (part, batch[middle:])]
        if self._random() < 0.5:  # noqa: PLR2004 - either half, equally likely
            halves.reverse()
        self._parts.extend(halves)

    def _turn_to_largest(self) -> None:
        """Let the largest piece be the next."""
        if self._parts:
            largest = max(range(len(self._parts)), key=lambda index: len(self._parts[index][1]))
            self._parts.append(self._parts.pop(largest))

    def _convict(self) -> tuple[MetricSnapshot, ...]:
        """Note that the backend accepts; return those that were refused alone until now."""
        self._accepts = True
        self.is_stalled = False
        self._refused_in_row = 0
        for part, _ in self._suspects:
            self._outcome_of(part).quarantined += self._take(part, 1)
        poison = tuple(snapshot for _, snapshot in self._suspects)
        self._suspects.clear()
        return poison

    def _stall(self) -> Effect:
        """Wait, with everything together again."""
        self._gather()
        self._refused = self._refused_in_row = 0
        self.is_stalled = True
        return Effect(pause=True)

    def _gather(self) -> None:
        """Put what was divided together again, part by part."""
        pieces: dict[int, list[Batch]] = {}
        if self._current is not None:
            self._parts.append(self._current)
            self._current = None
        for part, batch in chain(self._parts, ((part, (suspect,)) for part, suspect in self._suspects)):
            pieces.setdefault(part, []).append(batch)
        self._parts.clear()
        self._suspects.clear()
        for part in sorted(pieces, reverse=True):
            together = pieces[part]
            self._batches[part] = together[0] if len(together) == 1 else [*chain.from_iterable(together)]
            self._waiting.append(part)


__all__ = ["MAX_REFUSED", "MAX_REFUSED_IN_ROW", "MAX_SUSPECTS", "Consignment"]
