import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiokpl_metricsd.errors import LostPartError, StateInUseError, StoreError
from aiokpl_metricsd.outbox import Cut, Evicted, Mark, Outbox, Sealed, SinkAccount, StoredWindow
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.outbox_steps import MAX_BYTES, build_sealed, build_snapshots, mark

ACCOUNT = SinkAccount(b"ledger")


@asynccontextmanager
async def opened(
    directory: Path, *, max_bytes: int = MAX_BYTES, fsync: bool = False
) -> AsyncGenerator[Outbox]:
    outbox = Outbox.open(directory, max_bytes=max_bytes, fsync=fsync)
    try:
        yield outbox
    finally:
        await outbox.close()


def cut(sink: str, *batches: list[MetricSnapshot], end: float = 120.0) -> Cut:
    return Cut(sink, "d-1", end, batches)


async def store(outbox: Outbox, *cuts: Cut) -> list[StoredWindow]:
    return (await outbox.commit(None, cuts, {}, {})).stored


@pytest.mark.asyncio
async def test_a_new_outbox_is_empty_and_keeps_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path / "new" / "state") as outbox:
        state_id = outbox.state_id
        found = outbox.recovered
        assert 0 <= state_id < 2**63
        assert (found.position, found.closed_until, found.last_number, found.ledger) == (0, 0, 0, None)
        assert (found.opened, found.producers, found.sinks) == ([], [], {})
        assert (outbox.size_bytes, outbox.is_failing, outbox.last_error, outbox.set_aside) == (
            0,
            False,
            "",
            None,
        )
        outbox.forget_recovered()
        with pytest.raises(RuntimeError):
            _ = outbox.recovered
    async with opened(tmp_path / "new" / "state") as outbox:
        assert outbox.state_id == state_id
    async with opened(tmp_path / "other") as outbox:
        assert outbox.state_id != state_id


@pytest.mark.asyncio
@pytest.mark.parametrize("fsync", [False, True])
async def test_what_was_committed_is_there_at_the_next_start(tmp_path: Path, fsync: bool) -> None:
    window, held = build_snapshots(2_500), build_snapshots(3, 9)
    accounts = {"a": SinkAccount(b"ledger of a", b"state of a"), "b": SinkAccount(b"ledger of b")}
    async with opened(tmp_path, fsync=fsync) as outbox:
        cuts = [cut("a", window[:2_000], window[2_000:]), cut("b", window)]
        committed = await outbox.commit(build_sealed(4), cuts, accounts, {"b": held})
        assert committed.evicted == []
        assert [each.counts for each in committed.stored] == [(2_000, 500), (2_500,)]
        assert [each.number for each in committed.stored] == [1, 2]
    async with opened(tmp_path, fsync=fsync) as outbox:
        found = outbox.recovered
        assert (found.position, found.closed_until, found.last_number, found.ledger) == (4, 4, 4, b"4")
        assert [(part.number, part.start, part.end, part.events) for part in found.opened] == [(4, 4, 64, 7)]
        assert found.opened[0].blobs == (b"4", b"444")
        assert sorted(found.producers) == [(4, b"4"), (2**63 - 1, b"4")]
        assert found.sinks["a"].windows == committed.stored[:1]
        assert found.sinks["b"].windows == committed.stored[1:]
        assert {name: sink.account for name, sink in found.sinks.items()} == accounts
        assert (found.sinks["a"].merging, found.sinks["b"].merging) == ([], held)
        assert await outbox.load(1, "a", 0) == window[:2_000]
        assert await outbox.load(1, "a", 1) == window[2_000:]
        assert await outbox.load(2, "b", 0) == window


@pytest.mark.asyncio
async def test_a_checkpoint_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        await outbox.commit(build_sealed(1), [], {"a": SinkAccount(b"1", b"kept")}, {"a": build_snapshots(1)})
        await outbox.commit(Sealed(2, 2, 2, b"2", forgotten=[1]), [], {"a": SinkAccount(b"2")}, {})
    async with opened(tmp_path) as outbox:
        found = outbox.recovered
        assert (found.position, found.ledger, found.opened) == (2, b"2", [])
        assert found.producers == [(2**63 - 1, b"1")]
        assert found.sinks["a"].account == SinkAccount(b"2", b"kept")
        assert found.sinks["a"].merging == build_snapshots(1)
        await outbox.commit(None, [], {}, {"a": None})
        assert outbox.size_bytes == 0
    async with opened(tmp_path) as outbox:
        assert outbox.recovered.position == 2
        assert outbox.recovered.sinks["a"].merging == []


@pytest.mark.asyncio
async def test_a_batch_that_sinks_share_is_stored_once_and_goes_with_the_last(tmp_path: Path) -> None:
    window = build_snapshots(2_000)
    async with opened(tmp_path) as outbox:
        (first,) = await store(outbox, cut("a", window))
        one = outbox.size_bytes
        await outbox.settle("a", mark(ACCOUNT, Mark(first.number, 0)))
        assert outbox.size_bytes == 0
        a, b, c = await store(outbox, cut("a", window), cut("b", window), cut("c", list(window)))
        assert outbox.size_bytes == 2 * one
        await outbox.settle("a", mark(ACCOUNT, Mark(a.number, 0)))
        await outbox.settle("c", mark(ACCOUNT, Mark(c.number, 0)))
        assert outbox.size_bytes == one
        assert await outbox.load(b.number, "b", 0) == window
        rest = window[:10]
        await outbox.settle("b", mark(ACCOUNT, Mark(b.number, 0, rest)))
        assert 0 < outbox.size_bytes < one
        assert await outbox.load(b.number, "b", 0) == rest
        await outbox.settle("b", mark(ACCOUNT, Mark(b.number, 0)))
        assert outbox.size_bytes == 0


@pytest.mark.asyncio
async def test_numbers_ascend_for_ever_although_windows_go(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        async with opened(tmp_path) as outbox:
            for window in await store(outbox, cut("a", build_snapshots(1)), cut("b", [])):
                seen.append(window.number)
                await outbox.settle(window.sink, mark(ACCOUNT, Mark(window.number, 0)))
            assert outbox.size_bytes == 0
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.asyncio
async def test_a_window_without_snapshots_is_stored_nowhere(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        assert [each.counts for each in await store(outbox, cut("a", []), cut("b"))] == [(0,), ()]
    async with opened(tmp_path) as outbox:
        assert all(not sink.windows for sink in outbox.recovered.sinks.values())


@pytest.mark.asyncio
async def test_an_attempt_is_remembered_until_something_settles_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        (window,) = await store(outbox, cut("a", *(build_snapshots(4) for _ in range(3))))
        for part in (0, 1):
            await outbox.attempt("a", window.number, part)
        await outbox.settle("a", mark(ACCOUNT, Mark(window.number, 1, build_snapshots(2))))
    async with opened(tmp_path) as outbox:
        (found,) = outbox.recovered.sinks["a"].windows
        assert (found.counts, found.attempted) == ((4, 2, 4), frozenset({0}))
        await outbox.settle("a", mark(ACCOUNT, Mark(window.number, 0)))
        with pytest.raises(LostPartError):
            await outbox.attempt("a", window.number, 0)
        assert not outbox.is_failing
    async with opened(tmp_path) as outbox:
        (found,) = outbox.recovered.sinks["a"].windows
        assert (found.counts, found.attempted) == ((0, 2, 4), frozenset())


@pytest.mark.asyncio
async def test_past_the_bound_the_oldest_window_goes_first_and_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path / "measured") as outbox:
        await store(outbox, cut("a", build_snapshots(500)))
        one = outbox.size_bytes
    async with opened(tmp_path / "bounded", max_bytes=one * 3 + one // 2) as outbox:
        for number in (1, 2, 3):
            committed = await outbox.commit(
                None, [cut("a" if number % 2 else "b", build_snapshots(500))], {}, {}
            )
            assert (committed.stored[0].number, committed.evicted) == (number, [])
        half = build_snapshots(500)[:200]
        await outbox.settle("a", mark(ACCOUNT, Mark(1, 0, half)))
        batches = [build_snapshots(500) for _ in range(2)]
        committed = await outbox.commit(None, [cut("a", *batches)], {}, {})
        assert committed.evicted == [Evicted("a", 1, 200), Evicted("b", 2, 500)]
        assert outbox.size_bytes <= one * 3 + one // 2
        with pytest.raises(LostPartError):
            await outbox.load(2, "b", 0)
        # The worker that was sending it settles what is not there any more: its account counts.
        await outbox.settle("b", mark(SinkAccount(b"late"), Mark(2, 0, half)))
        assert await outbox.load(4, "a", 1) == batches[1]
    async with opened(tmp_path / "bounded") as outbox:
        sinks = outbox.recovered.sinks
        assert [each.number for each in sinks["a"].windows] == [3, 4]
        assert (sinks["b"].windows, sinks["b"].account) == ([], SinkAccount(b"late"))


@pytest.mark.asyncio
async def test_a_window_too_large_by_itself_goes_and_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=100) as outbox:
        window = build_snapshots(500)
        committed = await outbox.commit(None, [cut("a", window), cut("b", window)], {}, {})
        assert committed.evicted == [Evicted("a", 1, 500), Evicted("b", 2, 500)]
        assert outbox.size_bytes == 0
        assert [each.number for each in committed.stored] == [1, 2]


@pytest.mark.asyncio
async def test_a_shared_batch_is_freed_when_all_its_windows_are_evicted(tmp_path: Path) -> None:
    async with opened(tmp_path / "measured") as outbox:
        await store(outbox, cut("a", build_snapshots(500)))
        one = outbox.size_bytes
    async with opened(tmp_path / "bounded", max_bytes=one + one // 2) as outbox:
        old, new = build_snapshots(500), build_snapshots(500)
        await store(outbox, cut("a", old), cut("b", old))
        committed = await outbox.commit(None, [cut("a", new), cut("b", new)], {}, {})
        assert [(each.sink, each.number) for each in committed.evicted] == [("a", 1), ("b", 2)]
        assert outbox.size_bytes == one


@pytest.mark.asyncio
async def test_discarded_windows_go_with_the_account_that_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        window = build_snapshots(5)
        await store(outbox, *(cut("a", window) for _ in range(3)), cut("b", window))
        await outbox.discard("a", [1, 3, 4, 99], SinkAccount(b"expired"))
    async with opened(tmp_path) as outbox:
        sinks = outbox.recovered.sinks
        assert [each.number for each in sinks["a"].windows] == [2]
        assert sinks["a"].account == SinkAccount(b"expired")
        assert [each.number for each in sinks["b"].windows] == [4]


@pytest.mark.asyncio
async def test_a_removed_sink_keeps_its_windows_until_it_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        await outbox.note_sinks({"a": 10.0, "b": None}, 100.0)
        await outbox.commit(
            None, [cut("a", build_snapshots(5))], {"a": SinkAccount(b"a", b"s")}, {"a": build_snapshots(1)}
        )
        await outbox.note_sinks({"b": None}, 200.0)
        await outbox.note_sinks({"b": 5.0}, 300.0)
    async with opened(tmp_path) as outbox:
        sinks = outbox.recovered.sinks
        assert (sinks["a"].removed_at, sinks["a"].max_age_s, len(sinks["a"].windows)) == (200.0, 10.0, 1)
        assert (sinks["b"].removed_at, sinks["b"].max_age_s) == (None, 5.0)
        await outbox.note_sinks({"a": 20.0, "b": 5.0}, 400.0)
    async with opened(tmp_path) as outbox:
        found = outbox.recovered.sinks["a"]
        assert (found.removed_at, found.max_age_s, found.account) == (None, 20.0, SinkAccount(b"a", b"s"))
        await outbox.forget_sink("a")
        assert outbox.size_bytes == 0
    async with opened(tmp_path) as outbox:
        assert list(outbox.recovered.sinks) == ["b"]


@pytest.mark.asyncio
async def test_a_window_of_another_sink_or_part_is_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        await store(outbox, cut("a", build_snapshots(1)))
        for number, sink, part in ((1, "b", 0), (1, "a", 1), (2, "a", 0)):
            with pytest.raises(LostPartError):
                await outbox.load(number, sink, part)
            await outbox.settle(sink, mark(ACCOUNT, Mark(number, part)))
        assert await outbox.load(1, "a", 0) == build_snapshots(1)


@pytest.mark.asyncio
async def test_a_commit_that_fails_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    def fail() -> Iterator[bytes]:
        yield b"half"
        raise OSError("no more")

    async with opened(tmp_path) as outbox:
        await outbox.commit(build_sealed(1), [cut("a", build_snapshots(5))], {"a": ACCOUNT}, {})
        before = outbox.size_bytes
        odd = [*build_snapshots(5), MetricSnapshot("Odd", 2**70, 1.0, 1.0, 1.0)]
        for sealed, batch in ((build_sealed(2, blobs=fail), build_snapshots(9)), (build_sealed(3), odd)):
            with pytest.raises(StoreError):
                await outbox.commit(
                    sealed, [cut("a", build_snapshots(9), batch)], {"a": SinkAccount(b"no")}, {"a": odd[:5]}
                )
            assert outbox.is_failing
            assert outbox.size_bytes == before
        assert outbox.failures == 2
        (window,) = await store(outbox, cut("b", build_snapshots(1)))
        assert window.number == 2
        assert not outbox.is_failing
        assert outbox.last_error
    async with opened(tmp_path) as outbox:
        found = outbox.recovered
        assert (found.position, found.opened[0].blobs) == (1, (b"1", b"111"))
        assert found.sinks["a"].account == ACCOUNT
        assert [each.counts for each in found.sinks["a"].windows] == [(5,)]
        assert found.sinks["a"].merging == []


@pytest.mark.asyncio
async def test_one_outbox_at_a_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        with pytest.raises(StateInUseError, match="another daemon"):
            Outbox.open(tmp_path, max_bytes=MAX_BYTES)
        await store(outbox, cut("a", build_snapshots(1)))
    async with opened(tmp_path) as outbox:
        assert len(outbox.recovered.sinks["a"].windows) == 1


@pytest.mark.asyncio
async def test_calls_are_done_in_their_order_and_a_cancelled_one_all_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        parts = [build_snapshots(2_000) for _ in range(3)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store(outbox, cut("a", *parts)), 0.0001)
        settled = [outbox.settle("a", mark(SinkAccount(b"%d" % part), Mark(1, part))) for part in (0, 1)]
        await outbox.load(1, "a", 2)
        assert all(future.done() for future in settled)
    async with opened(tmp_path) as outbox:
        assert outbox.recovered.sinks["a"].windows[0].counts == (0, 0, 2_000)
        assert outbox.recovered.sinks["a"].account == SinkAccount(b"1")


@pytest.mark.asyncio
async def test_nothing_is_asked_of_a_closed_outbox(tmp_path: Path) -> None:
    outbox = Outbox.open(tmp_path, max_bytes=MAX_BYTES)
    await outbox.close()
    with pytest.raises(RuntimeError, match="closed"):
        await store(outbox)


@pytest.mark.asyncio
async def test_the_directory_and_its_files_are_closed_to_others(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    async with opened(directory) as outbox:
        await store(outbox, cut("a", build_snapshots(1)))
        assert directory.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o077 for file in directory.iterdir()} == {0}
        directory.chmod(0o755)
    async with opened(directory):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_not_ours_alone_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "of somebody").touch()
    outbox = Outbox.open(tmp_path, max_bytes=MAX_BYTES)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    asyncio.run(outbox.close())
