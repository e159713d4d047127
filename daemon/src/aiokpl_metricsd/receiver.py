"""Sockets -> datagrams, in fair and bounded turns of the event loop.

That a socket is readable is only noted; a turn then serves the sockets that are, each up to `TURN_BYTES` and
all of them up to `TURN_S`; of more than eight sources each has less. The next turn goes on where the time was
over: a source that was cut off, and did not have the turn for itself, first gets the rest of its share, or
it would always be the same ones that are cut off. Between two turns the loop gets to its timers. With a
bound by the number of datagrams, forty full lanes held it up for 4 s, and some of them got a twentieth of
what others got (measured).

What is read at the end of a turn can be written down and acknowledged together: `after_turn` does that.

A pass, before a window closes, is no work of its own: each source is told how much is queued on it, and the
turns go on as they do until each has had as much. To read one source to its end, and then the next, kept all
the others waiting twice as long (measured).
"""

import asyncio
from collections.abc import Callable, Generator
from typing import Protocol

from aiokpl_metricsd.clock import Clock

# Of one socket in a turn, and of all: 5 ms are a tenth of what the loop may be held up. A lane is
# acknowledged at the end of the turn that served it: a turn is what it waits for beside the others' shares.
TURN_BYTES = 64 * 1024
TURN_S = 0.005

# Of all that are ready, in a round: where there are more of them, each has less, though not so little that
# acknowledging costs a tenth of reading. A byte costs the daemon about 20 ns, of whatever frames, so that a
# round takes 10 ms, and more only where one datagram is more than a share (`docs/adr/0012`).
ROUND_BYTES = 8 * TURN_BYTES
_LEAST_BYTES = TURN_BYTES // 8

# What a datagram costs beside its bytes: a flood of small ones is no reason for the others to wait.
DATAGRAM_BYTES = 1024

# What `Source.read` returns in place of a size.
EMPTY = -1
END = -2
BROKEN = -3

# Of a source that was served: it has nothing more, or stays where it is.
_DONE = -1
_MORE = -2


class Source(Protocol):
    """A socket that is read. It is told apart by identity, so it keeps `object`'s hash."""

    def fileno(self) -> int:
        """Return the descriptor; open as long as the source is watched."""
        ...

    def read(self) -> int:
        """Read one datagram, hand it on, and return its size. Must not raise, and must not block.

        `EMPTY` when none is queued; `END` when none is and none will be; `BROKEN` when the loop must watch
        the descriptor no more, since it may not be told again what is queued: it is then read to its end.
        """
        ...

    def measure_queued(self) -> "Queued":
        """Return how much is queued now, at least."""
        ...


class Queued:
    """What a source has queued: so many bytes, or so many datagrams.

    Args:
        size_bytes: of all of it; None where only the datagrams are known.
        datagrams: their number; None where only the bytes are known.
    """

    __slots__ = ("_datagrams", "_size_bytes")

    def __init__(self, *, size_bytes: int | None = None, datagrams: int | None = None) -> None:
        """Have all of it unread."""
        self._size_bytes = float("inf") if size_bytes is None else size_bytes
        self._datagrams = float("inf") if datagrams is None else datagrams

    def take_off(self, size_bytes: int, datagrams: int) -> bool:
        """Take off what was read; return whether that was all."""
        self._size_bytes -= size_bytes
        self._datagrams -= datagrams
        return self._size_bytes <= 0 or self._datagrams <= 0


class Receiver:
    """Reads what it is told to watch.

    Args:
        clock: bounds a turn.
        after_turn: called when a turn, a pass or a drain is over.
    """

    def __init__(self, clock: Clock, after_turn: Callable[[], None]) -> None:
        """Watch nothing yet."""
        self._monotonic = clock.monotonic
        self._after_turn = after_turn
        self._sources: dict[Source, int] = {}
        # Those that may have something, in the order in which they are served, with what is left of their
        # share.
        self._ready: dict[Source, int] = {}
        self._broken: set[Source] = set()
        # Those that a pass still waits for.
        self._awaited: dict[Source, Queued] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_turn: asyncio.Handle | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that it is attached to."""
        return self._loop

    def watch(self, source: Source) -> None:
        """Read a source from now on, or from `attach` on."""
        fileno = source.fileno()
        self._sources[source] = fileno
        if self._loop is not None:
            self._loop.add_reader(fileno, self._note, source)

    def unwatch(self, source: Source) -> None:
        """Read a source no more; before it closes its descriptor. A second call does nothing."""
        fileno = self._sources.pop(source, -1)
        if fileno < 0:
            return
        self._ready.pop(source, None)
        self._awaited.pop(source, None)
        if source in self._broken:
            self._broken.discard(source)
        elif self._loop is not None:
            self._loop.remove_reader(fileno)

    def leave_loop(self, source: Source) -> None:
        """Have the loop watch a source no more, and read it turn by turn until its end.

        uvloop stops watching a descriptor that had an error, without a word (measured: of ten datagrams that
        a dead peer had left, seven were never read).
        """
        fileno = self._sources.get(source, -1)
        if fileno < 0 or source in self._broken:
            return
        self._broken.add(source)
        if self._loop is not None:
            self._loop.remove_reader(fileno)
        self._ready.setdefault(source, TURN_BYTES)
        self._schedule()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read from now on, whenever something is queued."""
        self._loop = loop
        for source, fileno in self._sources.items():
            if source not in self._broken:
                loop.add_reader(fileno, self._note, source)
        if self._ready:
            self._schedule()

    def detach(self) -> None:
        """Read no more by itself."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        for source, fileno in self._sources.items():
            if source not in self._broken:
                loop.remove_reader(fileno)
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None

    def read_turn(self) -> None:
        """Serve those that are ready, within the bounds of a turn."""
        scheduled, self._next_turn = self._next_turn, None
        if scheduled is not None:
            # It may be somebody else who calls.
            scheduled.cancel()
        deadline = self._monotonic() + TURN_S
        ready, awaited = self._ready, self._awaited
        share = max(_LEAST_BYTES, ROUND_BYTES // max(1, len(ready)))
        # The last ones that a pass waits for have more: the front door's queue may be a hundred shares long.
        awaited_share = max(share, ROUND_BYTES // 2 // max(1, len(awaited)))
        is_first = True
        for source in list(ready):
            left = ready.get(source, 0)
            if left <= 0:
                # It was unwatched meanwhile.
                continue
            left = self._serve(source, min(left, awaited_share if source in awaited else share), deadline)
            is_over = self._monotonic() >= deadline
            if left == _DONE:
                ready.pop(source, None)
            elif left > 0 and is_over and not is_first:
                ready[source] = left
            elif left >= 0:
                # To the end: the others come first.
                del ready[source]
                ready[source] = TURN_BYTES
            if is_over:
                break
            is_first = False
        self._after_turn()
        if ready:
            self._schedule()

    def read_pass(self) -> None:
        """Read what is queued now on all sources, but not for ever what comes meanwhile."""
        for _ in self._pass():
            self.read_turn()

    def read_pass_sliced(self) -> Generator[None, None, None]:
        """Do the same in the turns of the loop, and yield in between."""
        for _ in self._pass():
            if self._loop is None:
                self.read_turn()
            self._schedule()
            yield

    def _pass(self) -> Generator[None, None, None]:
        """Have what is queued now read, and yield as long as it is not."""
        # One that is given up may be closed at any time, also in the midst of the next.
        awaited = self._awaited = {}
        seen: set[Source] = set()
        try:
            # A lane that is accepted on the way may have frames that were queued before.
            for _ in range(2):
                for source in [source for source in self._sources if source not in seen]:
                    seen.add(source)
                    # Where nothing is, it may have come to its end.
                    awaited[source] = source.measure_queued()
                    self._ready.setdefault(source, TURN_BYTES)
                while awaited:
                    yield
        finally:
            awaited.clear()

    def drain(self) -> None:
        """Read all sources to the end; they must take nothing any more."""
        for source in list(self._sources):
            while source in self._sources:
                result = source.read()
                if result < 0:
                    self._settle(source, result)
                    if result != BROKEN:
                        break
        self._after_turn()

    def _note(self, source: Source) -> None:
        """Take note that the loop found a source readable."""
        self._ready.setdefault(source, TURN_BYTES)
        if len(self._sources) == 1 and self._next_turn is None:
            # Nobody to be fair to: a turn of its own would cost another round of the loop.
            self.read_turn()
        else:
            self._schedule()

    def _schedule(self) -> None:
        if self._next_turn is None and self._loop is not None:
            self._next_turn = self._loop.call_soon(self.read_turn)

    def _serve(self, source: Source, left: int, deadline: float) -> int:
        """Read a source within the bounds of a turn.

        Returns:
            What is left of its share, or `_DONE`, or `_MORE`.
        """
        read, monotonic = source.read, self._monotonic
        size_bytes = datagrams = 0
        # Where others wait, at least half of the next datagram must fit, if it is as long as the last: of
        # two that are a share each, one was too many.
        is_alone = len(self._ready) == 1
        while left > 0:
            size = read()
            if size < 0:
                return _MORE if self._settle(source, size) else _DONE
            size_bytes += size
            datagrams += 1
            cost = size + DATAGRAM_BYTES
            left -= cost
            if 2 * left < cost and not is_alone:
                left = 0
            if monotonic() >= deadline:
                break
        if source not in self._ready:
            # It unwatched itself.
            return _DONE
        queued = self._awaited.get(source)
        if queued is not None and queued.take_off(size_bytes, datagrams):
            del self._awaited[source]
        return max(left, 0)

    def _settle(self, source: Source, result: int) -> bool:
        """Do what the last answer of a source asks for; tell whether it may have more."""
        if result == EMPTY:
            self._awaited.pop(source, None)
            if source in self._broken:
                self._return_to_loop(source)
        elif result == END:
            self.unwatch(source)
        elif result == BROKEN:
            self.leave_loop(source)
            return source in self._sources
        return False

    def _return_to_loop(self, source: Source) -> None:
        """Have the loop watch a source again that had an error and is alive."""
        self._broken.discard(source)
        self._ready.pop(source, None)
        if self._loop is not None:
            self._loop.add_reader(self._sources[source], self._note, source)


__all__ = [
    "BROKEN",
    "DATAGRAM_BYTES",
    "EMPTY",
    "END",
    "ROUND_BYTES",
    "TURN_BYTES",
    "TURN_S",
    "Queued",
    "Receiver",
    "Source",
]
