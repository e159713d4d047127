"""Sockets -> datagrams, in fair and bounded turns of the event loop.

That a socket is readable is only noted; a turn then serves the sockets that are, each up to `TURN_BYTES` and
all of them up to `TURN_S`; of more than 24 sources each has less. The next turn goes on where the time was
over: a source that was cut off, and did not have the turn for itself, first gets the rest of its share, or
it would always be the same ones that are cut off. Between two turns the loop gets to its timers. With a
bound by the number of datagrams, forty full lanes held it up for 4 s, and some of them got a twentieth of
what others got (measured).

What is read at the end of a turn can be written down and acknowledged together: `after_turn` does that.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from aiokpl_metricsd.clock import Clock

# Of one socket in a turn, and of all: 10 ms are a fifth of what the loop may be held up.
TURN_BYTES = 64 * 1024
TURN_S = 0.010

# Of all that are ready, in a round: where there are more of them, each has less, though not so little that
# acknowledging costs as much as reading. Of forty full lanes one then waited for 46 ms of the daemon's CPU
# at most, and with whole shares for 75 ms (measured, `python -m bench --only lanes.`).
ROUND_BYTES = 24 * TURN_BYTES
_LEAST_BYTES = TURN_BYTES // 4

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

    def read_queued(self) -> int:
        """Read what is queued now, and hardly more; return what `read` did last."""
        ...


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
        self._next_turn = None
        deadline = self._monotonic() + TURN_S
        ready = self._ready
        share = max(_LEAST_BYTES, ROUND_BYTES // max(1, len(ready)))
        is_first = True
        for source in list(ready):
            left = ready.get(source, 0)
            if left <= 0:
                # It was unwatched meanwhile.
                continue
            left = self._serve(source, min(left, share), deadline)
            if left >= 0:
                is_over = self._monotonic() >= deadline
                if is_over and left > 0 and not is_first:
                    ready[source] = left
                    break
                # To the end: the others come first.
                del ready[source]
                ready[source] = TURN_BYTES
                if is_over:
                    break
            elif left == _DONE:
                ready.pop(source, None)
            is_first = False
        self._after_turn()
        if ready:
            self._schedule()

    def read_pass(self) -> None:
        """Read what is queued now on all sources, but not for ever what comes meanwhile."""
        for _ in self.read_pass_sliced():
            pass

    def read_pass_sliced(self) -> Iterator[None]:
        """Do the same one source at a time, so that the loop may turn in between."""
        served: set[Source] = set()
        # A lane that is accepted on the way may have frames that were queued before.
        for _ in range(2):
            for source in [source for source in self._sources if source not in served]:
                served.add(source)
                if source in self._sources:
                    self._settle(source, source.read_queued())
                    yield
        self._after_turn()

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
        # Where others wait, at least half of the next datagram must fit, if it is as long as the last: of
        # two that are a share each, one was too many.
        is_alone = len(self._ready) == 1
        while left > 0:
            size = read()
            if size < 0:
                return _MORE if self._settle(source, size) else _DONE
            cost = size + DATAGRAM_BYTES
            left -= cost
            if 2 * left < cost and not is_alone:
                left = 0
            if monotonic() >= deadline:
                break
        if source not in self._ready:
            # It unwatched itself.
            return _DONE
        return max(left, 0)

    def _settle(self, source: Source, result: int) -> bool:
        """Do what the last answer of a source asks for; tell whether it may have more."""
        if result == EMPTY:
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


__all__ = ["BROKEN", "DATAGRAM_BYTES", "EMPTY", "END", "TURN_BYTES", "TURN_S", "Receiver", "Source"]
