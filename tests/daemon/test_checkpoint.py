"""What is restored of a checkpoint: all that can be read, and the rest is counted and said."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import Column, ColumnsFrame, Series, Totals, encode, encode_series
from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregating.windows import Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.checkpoint import RETRY_S, Checkpointer, restore
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.journal import Journal
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.storing.stored import Recovered, RecoveredPart, Sealed

NOW = 1_700_000_000.0


@dataclass
class Parts:
    """A daemon's counting parts, without socket and sinks."""

    ledger: Ledger
    decoder: Decoder
    windows: Windows
    aggregator: Aggregator

    @classmethod
    def build(cls) -> "Parts":
        ledger = Ledger()
        windows = Windows(60, int(NOW) - 60)
        registry = Registry(ledger, max_series=100)
        return cls(ledger, Decoder(ledger), windows, Aggregator(registry, windows, ledger, live_series=0))

    def count(self, sequence: int, events: int = 5) -> None:
        """Count a frame of producer 7."""
        column = Column(encode_series(Series("m")), int(NOW), [1.0] * events)
        data = encode(ColumnsFrame(7, sequence, Totals((sequence - 1) * events), [column]))
        frame = self.decoder.decode(data)
        assert isinstance(frame, ColumnsFrame)
        self.decoder.note_events(frame, self.aggregator.add_columns(frame.columns, NOW))

    def check(self) -> None:
        assert self.ledger.balance_datagrams() == 0
        assert self.ledger.balance_events(self.aggregator.events_open) == 0


@dataclass
class HandClock:
    """Monotonic seconds that pass when told."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def parts() -> Parts:
    return Parts.build()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal", 1)
    yield journal
    journal.close()


def build_checkpointer(
    parts: Parts, journal: Journal, clock: HandClock, max_bytes: int = 1_000
) -> Checkpointer:
    return Checkpointer(
        parts.aggregator,
        parts.windows,
        parts.decoder,
        parts.ledger,
        journal,
        journal_max_bytes=max_bytes,
        clock=clock,
    )


def recover(sealed: Sealed) -> Recovered:
    """Return what the next daemon reads of a checkpoint."""
    opened = [
        RecoveredPart(each.number, each.start, each.end, each.events, tuple(each.blobs()))
        for each in sealed.opened
    ]
    return Recovered(
        sealed.position,
        sealed.closed_until,
        sealed.last_number,
        sealed.ledger,
        opened,
        list(sealed.producers),
        {},
    )


@pytest.mark.asyncio
async def test_a_checkpoint_restores_windows_numbers_and_ledger(parts: Parts, journal: Journal) -> None:
    checkpointer = build_checkpointer(parts, journal, HandClock())
    parts.count(1)
    parts.count(2)
    sealed = checkpointer.seal()
    recovered = recover(sealed)
    parts.count(3)
    await checkpointer.release(sealed, is_stored=True)
    parts.check()
    assert parts.aggregator.events_open == 15

    again = Parts.build()
    restore(recovered, again.aggregator, again.decoder, again.ledger)
    again.check()
    assert again.aggregator.events_open == 10
    again.count(3)
    again.check()
    assert again.ledger.events_missing == 0
    (window,) = again.aggregator.close_all(NOW)
    (snapshots,) = again.aggregator.freeze(window, 10)
    assert [(each.name, each.count, each.sum) for each in snapshots] == [("m", 15, 15.0)]


@pytest.mark.asyncio
async def test_what_could_not_be_stored_is_in_the_next_checkpoint(parts: Parts, journal: Journal) -> None:
    clock = HandClock()
    checkpointer = build_checkpointer(parts, journal, clock)
    parts.count(1)
    sealed = checkpointer.seal()
    await checkpointer.release(sealed, is_stored=False)
    assert not checkpointer.is_due
    clock.now += RETRY_S
    assert checkpointer.is_due
    second = checkpointer.seal()
    assert [producer_id for producer_id, _ in second.producers] == [7]
    assert second.opened[0].events == 5
    await checkpointer.release(second, is_stored=True)
    assert not checkpointer.is_due


@pytest.mark.asyncio
async def test_a_checkpoint_is_due_when_the_journal_has_passed_its_bound(
    parts: Parts, journal: Journal
) -> None:
    checkpointer = build_checkpointer(parts, journal, HandClock(), max_bytes=1_000)
    journal.append(b"x" * 500, NOW, lane=False)
    journal.write()
    assert not checkpointer.is_due
    journal.append(b"x" * 600, NOW, lane=False)
    journal.write()
    assert checkpointer.is_due
    sealed = checkpointer.seal()
    await checkpointer.release(sealed, is_stored=True)
    assert not checkpointer.is_due


@pytest.mark.asyncio
@pytest.mark.parametrize("damaged", ["ledger", "producers", "window"])
async def test_what_cannot_be_read_costs_itself_alone_and_is_said(
    parts: Parts, journal: Journal, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    checkpointer = build_checkpointer(parts, journal, HandClock())
    parts.count(1)
    sealed = checkpointer.seal()
    found = recover(sealed)
    await checkpointer.release(sealed, is_stored=True)
    part = found.opened[0]
    again = Parts.build()
    restore(
        Recovered(
            found.position,
            found.closed_until,
            found.last_number,
            b"\xc1" if damaged == "ledger" else found.ledger,
            [RecoveredPart(part.number, part.start, part.end, part.events, (b"\xc1",))]
            if damaged == "window"
            else found.opened,
            [(7, b"\xc1")] if damaged == "producers" else found.producers,
            {},
        ),
        again.aggregator,
        again.decoder,
        again.ledger,
    )
    again.check()
    assert again.aggregator.events_open == (0 if damaged == "window" else 5)
    assert again.ledger.events_unreadable == (5 if damaged == "window" else 0)
    (record,) = (each for each in caplog.records if each.levelno == logging.CRITICAL)
    assert record.getMessage().startswith("the checkpoint cannot be read: ")
    again.count(2)
    again.check()
