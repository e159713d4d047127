"""A sink that remembers what it has taken has each snapshot once, wherever the process dies."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from aiokpl_metricsd.errors import PermanentExportError, StoreError
from aiokpl_metricsd.outbox import Sealed
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.delivering.stored import Life, living, until
from tests.daemon.fakes import build_snapshot, build_window, serve

SEALED = Sealed(7, 60, 1, b"ledger")


class FileSink:
    """Writes lines, as to a file that outlives the process, and cuts off what it does not remember."""

    max_batch = 2
    ordered = True

    def __init__(self, lines: Sequence[str] = (), poison: str = "") -> None:
        self.lines = [*lines]
        self.poison = poison

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        if any(each.name == self.poison for each in snapshots):
            raise PermanentExportError("no")
        self.lines += map(name_line, snapshots)

    def dump_state(self) -> bytes:
        return str(len(self.lines)).encode()

    def load_state(self, state: bytes) -> None:
        assert int(state) <= len(self.lines)
        del self.lines[int(state) :]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        pass


def name_line(snapshot: MetricSnapshot) -> str:
    """Return the line of a snapshot."""
    return " ".join([snapshot.window_id, snapshot.name, *[value for _, value in snapshot.dimensions]])


def watch(life: Life, sink: FileSink) -> list[tuple[Path, list[str]]]:
    """Keep what a SIGKILL after each transaction would leave: the directory, and the file."""
    left: list[tuple[Path, list[str]]] = []
    store: Any = life.outbox._store
    run = store._run

    def run_and_keep(work: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever it returns
        result = run(work)
        directory = life.directory.with_name(f"left{len(left)}")
        shutil.copytree(life.directory, directory)
        left.append((directory, [*sink.lines]))
        return result

    store._run = run_and_keep
    return left


@pytest.mark.asyncio
@pytest.mark.parametrize("order", ["bbgggg", "bbbggg", "bbgbgg", "bbgggb"])
async def test_whatever_is_refused_each_snapshot_is_there_once_after_a_death_at_any_transaction(
    tmp_path: Path, order: str
) -> None:
    sink = FileSink(poison="Bad")
    # The first batch is all poison: it has its fate only when another one is taken, which may be in pieces.
    window = [
        build_snapshot("Bad" if each == "b" else "Good", dimensions=(("number", str(number)),))
        for number, each in enumerate(order)
    ]
    expected = Counter(name_line(each) for each in window if each.name == "Good")
    async with living(tmp_path / "a", serve(sink)) as life:
        left = watch(life, sink)
        await life.hand_over(window)
        await until(lambda: not life.delivery.ledgers["sink"].waiting)
        await life.rest()
    # The window is stored, and marked at least twice.
    assert len(left) > 2
    for directory, lines in left[1:]:
        again = FileSink(lines, poison="Bad")
        async with living(directory, serve(again)) as life:
            ledger = life.delivery.ledgers["sink"]
            await until(lambda ledger=ledger: not ledger.waiting)  # type: ignore[misc]
            assert (ledger.delivered, ledger.quarantined) == (order.count("g"), order.count("b"))
        assert Counter(again.lines) == expected, directory


@pytest.mark.asyncio
@pytest.mark.parametrize("is_covered", [True, False])
async def test_what_went_out_from_memory_is_in_the_file_only_if_a_checkpoint_covers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_covered: bool
) -> None:
    sink = FileSink()
    async with living(tmp_path / "a", serve(sink)) as life:

        def fail(*_: object) -> None:
            raise StoreError("disk full")

        await life.hand_over(build_window(1))
        await until(lambda: sink.lines)
        with monkeypatch.context() as patch:
            patch.setattr(life.outbox._store, "commit", fail)
            assert not await life.delivery.hand_over([(build_window(2, start=60.0), 0.0)], SEALED)
        await until(lambda: len(sink.lines) == 3)
        await life.rest()
        if is_covered:
            assert await life.delivery.hand_over([], SEALED)
        left, lines = await life.die(), [*sink.lines]
    again = FileSink(lines)
    async with living(left, serve(again)) as life:
        await life.hand_over(build_window(1, start=120.0))
        await until(lambda: "w120 m0" in again.lines)
    # What no checkpoint covers comes again from the journal.
    from_memory = ["w60 m0", "w60 m1"] if is_covered else []
    assert again.lines == ["w0 m0", *from_memory, "w120 m0"]


@pytest.mark.asyncio
async def test_marks_that_could_not_be_stored_go_in_one_transaction_with_what_the_sink_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FileSink()
    async with living(tmp_path / "a", serve(sink)) as life:

        def fail(*_: object) -> None:
            raise StoreError("disk full")

        await life.hand_over(build_window(1, start=60.0))
        await until(lambda: sink.lines and not life.outbox.size_bytes)
        with monkeypatch.context() as patch:
            patch.setattr(life.outbox._store, "settle", fail)
            await life.hand_over(build_window(5))
            await until(lambda: len(sink.lines) == 6)
            await life.rest()
        left = watch(life, sink)
        await life.hand_over(build_window(1, start=120.0))
        await until(lambda: not life.outbox.size_bytes)
    expected = Counter(["w60 m0", *[f"w0 m{number}" for number in range(5)], "w120 m0"])
    for directory, lines in left:
        again = FileSink(lines)
        async with living(directory, serve(again)) as life:
            ledger = life.delivery.ledgers["sink"]
            await until(lambda ledger=ledger: not ledger.waiting)  # type: ignore[misc]
        # At the first of them the last window may not be there yet.
        assert Counter(again.lines) | Counter(["w120 m0"]) == expected
