"""Sources -> datagrams, in fair turns: counted by what each got, never by the time it took."""

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import pytest

from aiokpl_metricsd.receiver import (
    BROKEN,
    DATAGRAM_BYTES,
    EMPTY,
    END,
    ROUND_BYTES,
    TURN_BYTES,
    TURN_S,
    Queued,
    Receiver,
)
from tests.daemon.loops import NewLoop, on_both_loops, run, until
from tests.daemon.test_clock import HandClock


class Stream:
    """A source by hand: what it answers, and how often it was asked."""

    def __init__(self, desk: "Desk", answers: list[int], number: int = 1_000) -> None:
        self.desk = desk
        self.answers = answers
        self.number = number
        self.reads = 0
        # What it says is queued, where that is less than what it has.
        self.queued: Queued | None = None
        self.size = answers[0] if answers else 0

    def fileno(self) -> int:
        return self.number

    def read(self) -> int:
        answer = self.answers.pop(0) if self.answers else EMPTY
        if answer >= 0:
            self.reads += 1
            self.desk.clock.pass_by(self.desk.cost_s + self.desk.byte_cost_s * (answer + DATAGRAM_BYTES))
            self.desk.read.append(self)
        return answer

    def measure_queued(self) -> Queued:
        queued, self.queued = self.queued, None
        return Queued(datagrams=len(self.answers)) if queued is None else queued


class Desk:
    """A receiver over streams, and what it did."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.cost_s = 0.0
        self.byte_cost_s = 0.0
        self.read: list[Stream] = []
        self.turns: list[int] = []
        self.receiver = Receiver(self.clock, lambda: self.turns.append(len(self.read)))

    def open(self, *answers: int) -> Stream:
        stream = Stream(self, list(answers), 1_000 + len(self.receiver._sources))
        self.receiver.watch(stream)
        return stream

    def has_read(self, count: int) -> bool:
        """Tell whether it has read so often."""
        return len(self.read) >= count

    def note(self, *streams: Stream) -> None:
        """Let the receiver know that they are readable, as the loop does."""
        for stream in streams:
            self.receiver._note(stream)


class Waits:
    """How much was read between two turns' ends at which one and the same stream had been served."""

    def __init__(self, desk: Desk, streams: list[Stream]) -> None:
        self.desk = desk
        self.streams = streams
        self.first_turn = 0

    def begin_anew(self) -> None:
        """Forget what was read until now."""
        self.first_turn = len(self.desk.turns)

    def longest_bytes(self) -> int:
        """Return the most that any of them waited for, with what each datagram costs beside its bytes."""
        costs = [each.size + DATAGRAM_BYTES for each in self.desk.read]
        longest, last = 0, dict.fromkeys(self.streams, 0)
        done, begin = 0, self.desk.turns[self.first_turn - 1] if self.first_turn else 0
        for end in self.desk.turns[self.first_turn :]:
            done += sum(costs[begin:end])
            for stream in set(self.desk.read[begin:end]):
                longest = max(longest, done - last[stream])
                last[stream] = done
            begin = end
        return max(longest, *[done - each for each in last.values()])


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_turn_serves_those_that_are_ready_and_says_when_it_is_over(desk: Desk) -> None:
    first, second, third = desk.open(5, 6), desk.open(7), desk.open(8)
    desk.note(first, third)
    desk.receiver.read_turn()
    assert desk.read == [first, first, third]
    assert desk.turns == [3]
    assert second.reads == 0


def test_a_turn_reads_a_bounded_number_of_bytes_of_each_source(desk: Desk) -> None:
    half = TURN_BYTES // 2
    streams = [desk.open(*[half] * 6) for _ in range(3)]
    desk.note(*streams)
    for turn in (1, 2, 3):
        desk.receiver.read_turn()
        assert [stream.reads for stream in streams] == [2 * turn] * 3
    desk.receiver.read_turn()
    assert len(desk.read) == 18


def test_a_turn_ends_after_its_time_and_the_next_begins_with_those_not_yet_served(desk: Desk) -> None:
    streams = [desk.open(*[1] * 100) for _ in range(5)]
    desk.cost_s = TURN_S / 2.5
    desk.note(*streams)
    for stream in (*streams, *streams):
        desk.receiver.read_turn()
        assert desk.read[-3:] == [stream] * 3
    assert desk.turns == [3 * turn for turn in range(1, 11)]


def test_forty_full_lanes_and_a_flood_get_equal_shares_whatever_their_cost(desk: Desk) -> None:
    endless = [desk.open(*[16_384] * 1_000) for _ in range(41)]
    desk.cost_s = 0.0004
    desk.note(*endless)
    before = 0
    for turn in range(400):
        desk.note(endless[turn % 3])
        desk.receiver.read_turn()
        # 10 ms at 0.4 ms each: a turn never takes more.
        assert desk.turns[-1] - before <= 26
        before = desk.turns[-1]
    shares = [stream.reads for stream in endless]
    assert max(shares) - min(shares) <= 2 * TURN_BYTES // 16_384


def test_one_that_was_cut_off_gets_the_rest_of_its_share_and_one_that_had_a_whole_turn_does_not(
    desk: Desk,
) -> None:
    # Four datagrams are a share, five a turn.
    first, second = desk.open(*[16_384] * 100), desk.open(*[16_384] * 100)
    desk.cost_s = TURN_S / 4.5
    desk.note(first, second)
    desk.receiver.read_turn()
    assert desk.read == [first] * 4 + [second]
    desk.receiver.read_turn()
    assert desk.read[5:] == [second] * 3 + [first] * 2
    # One whose datagrams take a turn each is not the first in the next one, whatever its share.
    slow, other = desk.open(*[1] * 100), desk.open(*[1] * 100)
    for stream in (first, second):
        desk.receiver.unwatch(stream)
    desk.cost_s = TURN_S
    desk.read.clear()
    desk.note(slow, other)
    for _ in range(4):
        desk.receiver.read_turn()
    assert desk.read == [slow, other] * 2


def test_small_datagrams_have_a_price_too(desk: Desk) -> None:
    flood, other = desk.open(*[1] * 1_000), desk.open(1)
    desk.note(flood, other)
    desk.receiver.read_turn()
    assert flood.reads == TURN_BYTES // DATAGRAM_BYTES
    assert other.reads == 1


def test_a_large_datagram_that_is_a_share_by_itself_is_the_only_one_of_its_source(desk: Desk) -> None:
    large = 60_000
    streams = [desk.open(*[large] * 3) for _ in range(2)]
    desk.note(*streams)
    desk.receiver.read_turn()
    assert [stream.reads for stream in streams] == [1, 1]
    # Alone, it keeps nobody waiting.
    desk.receiver.unwatch(streams[0])
    desk.receiver.read_turn()
    assert streams[1].reads == 3


def test_many_sources_have_smaller_shares(desk: Desk) -> None:
    cost = TURN_BYTES // 16
    for count, reads in ((8, 16), (16, 8), (32, 4), (64, 2), (128, 2)):
        streams = [desk.open(*[cost - DATAGRAM_BYTES] * 100) for _ in range(count)]
        desk.note(*streams)
        desk.receiver.read_turn()
        assert [stream.reads for stream in streams] == [reads] * count
        for stream in streams:
            desk.receiver.unwatch(stream)


def test_of_forty_full_lanes_none_waits_for_more_than_a_round_before_or_during_a_pass(desk: Desk) -> None:
    desk.byte_cost_s = 20e-9
    sizes = (200, 4_000, 30_000)
    streams = [desk.open(*[sizes[number % 3]] * 3_000) for number in range(40)]
    flood = desk.open(*[1_900] * 3_000)
    waits = Waits(desk, [*streams, flood])
    desk.note(*streams, flood)
    for _ in range(100):
        desk.receiver.read_turn()
    # A round; shares are exceeded by less than a datagram; the turn in which it ends goes on to its own end.
    most = ROUND_BYTES + 40 * DATAGRAM_BYTES + sum(sizes) * 14 + 1_900 + 5e-3 / 20e-9
    assert waits.longest_bytes() <= most
    waits.begin_anew()
    before = [stream.reads for stream in streams]
    for stream in streams:
        stream.queued = Queued(size_bytes=100_000)
    flood.queued = Queued(datagrams=11)
    desk.receiver.read_pass()
    for stream, reads in zip(streams, before, strict=True):
        assert (stream.reads - reads) * stream.size >= 100_000
    # Half a round more, where the last ones are hurried on.
    assert waits.longest_bytes() <= most + ROUND_BYTES // 2


def test_a_long_queue_holds_up_a_pass_for_fewer_turns_when_nobody_else_is_waited_for(desk: Desk) -> None:
    lanes = [desk.open(*[4_000] * 3_000) for _ in range(40)]
    door = desk.open(*[1_900] * 3_000)
    for lane in lanes:
        lane.queued = Queued(size_bytes=8_000)
    door.queued = Queued(datagrams=513)
    desk.receiver.read_pass()
    assert 513 <= door.reads < 600
    # Its shares were of 11 datagrams then; of 41 that are ready one has four.
    assert len(desk.turns) < 60


def test_a_turn_over_many_that_have_nothing_ends_in_time_as_well(desk: Desk) -> None:
    streams = [desk.open() for _ in range(100)]
    asked: list[Stream] = []

    def read(stream: Stream) -> int:
        asked.append(stream)
        desk.clock.pass_by(TURN_S / 10)
        return EMPTY

    for stream in streams:
        stream.read = partial(read, stream)  # type: ignore[method-assign]
    desk.receiver.read_pass()
    assert asked == streams
    assert len(desk.turns) == 10


def test_one_source_alone_is_served_when_it_is_noted(desk: Desk) -> None:
    stream = desk.open(1, 1)
    desk.note(stream)
    assert stream.reads == 2
    assert desk.turns == [2]


def test_a_source_at_its_end_is_not_asked_again(desk: Desk) -> None:
    ended, other = desk.open(1, END, 1), desk.open(1)
    desk.note(ended, other)
    desk.receiver.read_turn()
    desk.receiver.read_turn()
    desk.receiver.read_pass()
    desk.receiver.drain()
    assert ended.reads == 1
    desk.receiver.unwatch(ended)


def test_a_broken_source_is_read_turn_by_turn_to_its_end(desk: Desk) -> None:
    half = TURN_BYTES // 2
    broken, other = desk.open(BROKEN, *[half] * 5, END), desk.open()
    desk.note(broken, other)
    for reads in (0, 2, 4, 5):
        desk.receiver.read_turn()
        assert broken.reads == reads
    assert desk.receiver._ready == {}


def test_a_source_that_is_unwatched_by_another_in_the_same_turn_is_not_read(desk: Desk) -> None:
    first, second = desk.open(1), desk.open(1)

    def read() -> int:
        desk.receiver.unwatch(second)
        return EMPTY

    first.read = read  # type: ignore[method-assign]
    desk.note(first, second)
    desk.receiver.read_turn()
    assert second.reads == 0


def test_a_source_that_unwatches_itself_is_not_read_again(desk: Desk) -> None:
    stream, other = desk.open(), desk.open(1)

    def read() -> int:
        desk.receiver.unwatch(stream)
        return TURN_BYTES

    stream.read = read  # type: ignore[method-assign]
    desk.note(stream, other)
    desk.receiver.read_turn()
    assert stream not in desk.receiver._ready
    assert stream not in desk.receiver._sources


def test_a_pass_reads_what_is_queued_on_all_whether_noted_or_not(desk: Desk) -> None:
    streams = [desk.open(*[TURN_BYTES] * 3) for _ in range(3)]
    desk.cost_s = TURN_S
    desk.note(streams[0])
    desk.receiver.read_pass()
    assert [stream.reads for stream in streams] == [3, 3, 3]
    assert desk.turns[-1] == 9


def test_a_pass_reads_what_it_accepts_on_the_way(desk: Desk) -> None:
    opened: list[Stream] = []

    def accept() -> int:
        if opened:
            return EMPTY
        opened.append(desk.open(1, 1))
        return 0

    desk.open().read = accept  # type: ignore[method-assign]
    desk.receiver.read_pass()
    assert [stream.reads for stream in opened] == [2]


def test_a_pass_that_is_given_up_leaves_nothing_behind_and_the_next_one_is_whole(desk: Desk) -> None:
    streams = [desk.open(*[TURN_BYTES] * 2) for _ in range(3)]
    given_up = desk.receiver.read_pass_sliced()
    next(given_up)
    given_up.close()
    assert desk.receiver._awaited == {}
    desk.receiver.unwatch(streams[0])
    desk.receiver.read_pass()
    assert [stream.reads for stream in streams] == [1, 2, 2]


def test_a_pass_does_not_wait_for_what_is_unwatched_on_the_way(desk: Desk) -> None:
    first, second = desk.open(1, 1, 1), desk.open(1, 1)
    desk.cost_s = TURN_S
    for number, _ in enumerate(desk.receiver.read_pass_sliced()):
        if number == 0:
            desk.receiver.unwatch(first)
    assert [stream.reads for stream in (first, second)] == [1, 2]


def test_a_sliced_pass_can_be_interrupted_by_turns(desk: Desk) -> None:
    streams = [desk.open(1, 1), desk.open(1, END), desk.open(1)]
    for _ in desk.receiver.read_pass_sliced():
        desk.note(*streams[1:])
        desk.receiver.read_turn()
    assert [stream.reads for stream in streams] == [2, 1, 1]
    assert desk.turns[-1] == 4


def test_a_drain_reads_all_to_the_end_behind_an_error_too(desk: Desk) -> None:
    streams = [desk.open(*[TURN_BYTES] * 9), desk.open(1, BROKEN, 1, 1, END), desk.open()]
    desk.cost_s = 10.0
    desk.receiver.drain()
    assert [stream.reads for stream in streams] == [9, 3, 0]
    assert desk.turns == [12]
    assert desk.receiver.loop is None


# ------------------------------------------------------------------------------ with real loops


def open_pipe(desk: Desk, stack: ExitStack) -> tuple[Stream, Callable[[bytes], int]]:
    """Return a stream over a real pipe, which reads one byte at a time, and how to write to it."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    stack.callback(os.close, ours)
    stack.callback(os.close, theirs)
    stream = Stream(desk, [], ours)

    def read() -> int:
        try:
            os.read(ours, 1)
        except BlockingIOError:
            return EMPTY
        desk.read.append(stream)
        stream.reads += 1
        return 1

    stream.read = read  # type: ignore[method-assign]
    return stream, partial(os.write, theirs)


@pytest.mark.parametrize("count", [1, 3])
@on_both_loops
def test_attached_it_reads_whatever_comes_and_detached_nothing_more(new_loop: NewLoop, count: int) -> None:
    async def work() -> None:
        desk = Desk()
        with ExitStack() as stack:
            pipes = [open_pipe(desk, stack) for _ in range(count)]
            desk.receiver.watch(pipes[0][0])
            desk.receiver.detach()
            desk.receiver.attach(asyncio.get_running_loop())
            for stream, _ in pipes[1:]:
                desk.receiver.watch(stream)
            for number in range(3):
                for _, write in pipes:
                    write(b"ab")
                await until(partial(desk.has_read, 2 * count * (number + 1)))
            assert [stream.reads for stream, _ in pipes] == [6] * count
            assert desk.turns[-1] == 6 * count
            desk.receiver.detach()
            desk.receiver.detach()
            for _, write in pipes:
                write(b"x")
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert len(desk.read) == 6 * count
            desk.receiver.drain()
            assert len(desk.read) == 7 * count

    run(new_loop, work())


@on_both_loops
def test_between_two_turns_the_loop_gets_to_its_timers(new_loop: NewLoop) -> None:
    async def work() -> None:
        desk = Desk()
        desk.cost_s = TURN_S
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            pipes = [open_pipe(desk, stack) for _ in range(41)]
            for stream, write in pipes:
                write(bytes(1_000))
                stream.read = partial(_read_endless, desk, stream)  # type: ignore[method-assign]
                desk.receiver.watch(stream)
            desk.receiver.attach(loop)
            ticks: list[int] = []
            while len(ticks) < 100:
                await asyncio.sleep(0)
                ticks.append(len(desk.read))
            # A tick waits for one turn, or two where the loop has them behind each other; each reads one.
            assert max(later - earlier for earlier, later in pairwise(ticks)) <= 2
            shares = [stream.reads for stream, _ in pipes]
            assert max(shares) - min(shares) <= 1
            assert sum(shares) >= 41
            desk.receiver.detach()

    run(new_loop, work())


@on_both_loops
def test_a_pass_in_the_loop_is_over_although_nobody_is_ever_empty_and_detached_it_goes_on(
    new_loop: NewLoop,
) -> None:
    async def work() -> None:
        desk = Desk()
        desk.cost_s = TURN_S
        with ExitStack() as stack:
            pipes = [open_pipe(desk, stack) for _ in range(5)]
            for stream, write in pipes:
                write(bytes(1_000))
                stream.read = partial(_read_endless, desk, stream)  # type: ignore[method-assign]
                desk.receiver.watch(stream)
            desk.receiver.attach(asyncio.get_running_loop())
            for is_detached in (False, True):
                before = [stream.reads for stream, _ in pipes]
                for stream, _ in pipes:
                    stream.queued = Queued(datagrams=4)
                ticks: list[int] = []
                for _ in desk.receiver.read_pass_sliced():
                    await asyncio.sleep(0)
                    ticks.append(len(desk.read))
                    if is_detached and len(ticks) == 3:
                        desk.receiver.detach()
                after = [stream.reads for stream, _ in pipes]
                assert all(4 <= now - then <= 5 for now, then in zip(after, before, strict=True))
                # A turn reads one, and there may be two between two ticks.
                assert max(later - earlier for earlier, later in pairwise(ticks)) <= 2
            assert desk.receiver.loop is None

    run(new_loop, work())


def _read_endless(desk: Desk, stream: Stream) -> int:
    stream.reads += 1
    desk.read.append(stream)
    desk.clock.pass_by(desk.cost_s)
    return 1


@on_both_loops
def test_a_source_that_left_the_loop_is_read_to_its_end_and_one_that_lives_is_watched_again(
    new_loop: NewLoop,
) -> None:
    async def work() -> None:
        desk = Desk()
        with ExitStack() as stack:
            (dead, write_dead), (alive, write_alive) = (open_pipe(desk, stack) for _ in range(2))
            desk.receiver.attach(asyncio.get_running_loop())
            for stream in (dead, alive):
                desk.receiver.watch(stream)
            write_dead(b"abc")
            write_alive(b"a")
            for stream in (dead, alive, dead):
                desk.receiver.leave_loop(stream)
            await until(partial(desk.has_read, 4))
            write_alive(b"bc")
            await until(lambda: alive.reads >= 3)
            for stream in (dead, alive):
                desk.receiver.unwatch(stream)
            desk.receiver.leave_loop(dead)
            desk.receiver.detach()

    run(new_loop, work())
