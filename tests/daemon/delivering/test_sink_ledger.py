import json
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger


def test_a_new_ledger_balances_and_shares_nothing() -> None:
    first, second = SinkLedger(), SinkLedger()
    first.close_window(1)
    first.drop(1, DropReason.QUEUE_FULL)
    assert (first.balance(), second.balance()) == (0, 0)
    assert second.dropped_by_reason == {}


def test_a_snapshot_that_nobody_accounts_for_is_seen() -> None:
    ledger = SinkLedger(closed=3, delivered=2)
    assert ledger.balance() == 1


def test_merged_snapshots_are_a_column_of_their_own() -> None:
    ledger = SinkLedger()
    ledger.close_window(10)
    ledger.select(filtered_count=2, merged_count=3)
    ledger.hold(5, merged_count=1)
    assert (ledger.waiting, ledger.merging, ledger.merged, ledger.filtered) == (0, 4, 4, 2)
    ledger.release(4)
    ledger.deliver(4)
    assert (ledger.closed, ledger.delivered, ledger.balance()) == (10, 4, 0)


def test_drops_are_counted_by_reason() -> None:
    ledger = SinkLedger()
    ledger.close_window(6)
    ledger.hold(2, merged_count=0)
    ledger.drop(1, DropReason.QUEUE_FULL)
    assert ledger.abandon(DropReason.SHUTDOWN) == 5
    assert ledger.abandon(DropReason.SHUTDOWN) == 0
    assert ledger.dropped == 6
    assert ledger.dropped_by_reason == {"queue_full": 1, "shutdown": 5}
    assert ledger.balance() == 0


def move(ledger: SinkLedger, kind: int, count: int) -> None:
    waiting, merging = min(count, ledger.waiting), min(count, ledger.merging)
    moves: list[Callable[[], object]] = [
        lambda: ledger.close_window(count),
        lambda: ledger.select(waiting // 2, waiting - waiting // 2),
        lambda: ledger.hold(waiting, waiting // 3),
        lambda: ledger.release(merging),
        lambda: ledger.deliver(waiting),
        lambda: ledger.quarantine(waiting),
        lambda: ledger.expire(waiting),
        lambda: ledger.drop(waiting, DropReason.FAULT),
    ]
    moves[kind]()


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 100)), max_size=50))
def test_it_balances_after_any_movement(movements: list[tuple[int, int]]) -> None:
    ledger = SinkLedger()
    for kind, count in movements:
        move(ledger, kind, count)
        assert ledger.balance() == 0
    assert ledger.closed == sum(count for kind, count in movements if kind == 0)


def test_it_is_written_as_plain_columns() -> None:
    ledger = SinkLedger()
    ledger.close_window(2)
    ledger.drop(2, DropReason.SHUTDOWN)
    written = json.loads(json.dumps(ledger.as_dict()))
    assert written["closed"] == written["dropped"] == 2
    assert written["dropped_by_reason"] == {"shutdown": 2}


def test_a_change_is_added_figure_by_figure() -> None:
    ledger, change = SinkLedger(), SinkLedger()
    ledger.close_window(5)
    ledger.drop(1, DropReason.FAULT)
    change.close_window(3)
    change.drop(2, DropReason.FAULT)
    ledger.add(change)
    assert (ledger.closed, ledger.waiting, ledger.dropped_by_reason) == (8, 5, {"fault": 3})
    assert ledger.balance() == 0


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 30), st.integers(0, 30))
def test_a_ledger_agrees_with_what_a_restart_found_and_balances(
    waiting: int, delivered: int, merging: int, found: int, held: int
) -> None:
    ledger = SinkLedger(
        closed=waiting + delivered + merging, waiting=waiting, delivered=delivered, merging=merging
    )
    lost = ledger.reconcile(found, held)
    assert (ledger.waiting, ledger.merging, ledger.balance()) == (found, held, 0)
    assert lost == ledger.dropped == max(0, waiting - found) + max(0, merging - held)
    assert ledger.delivered >= 0


def test_what_is_kept_is_not_abandoned() -> None:
    ledger = SinkLedger(closed=9, waiting=5, merging=4)
    assert ledger.abandon(DropReason.SHUTDOWN, kept=3, kept_merging=4) == 2
    assert (ledger.waiting, ledger.merging, ledger.balance()) == (3, 4, 0)
