from collections.abc import Callable
from math import ceil, log2
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metricsd.delivering.answer import Batch, match_partial
from aiokpl_metricsd.delivering.consignment import MAX_REFUSED, MAX_SUSPECTS, Consignment
from aiokpl_metricsd.errors import PartialExportError
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.stored import StoredWindow
from tests.daemon.fakes import build_snapshot, build_window


class Outcome:
    """Sends a consignment to a backend that refuses some names; without a pause, or up to the first one."""

    def __init__(
        self, consignment: Consignment, is_refused: Callable[[Batch], bool], *, pauses: int = 0
    ) -> None:
        self.delivered: list[MetricSnapshot] = []
        self.quarantined: list[MetricSnapshot] = []
        self.refused = 0
        self.requests = 0
        self.pauses = 0
        while (batch := consignment.next_batch()) is not None:
            self.requests += 1
            if is_refused(batch):
                self.refused += 1
                effect = consignment.refuse()
            else:
                self.delivered.extend(batch)
                effect = consignment.accept()
                assert effect.delivered_count == len(batch)
            self.quarantined.extend(effect.quarantined)
            self.pauses += effect.pause
            if self.pauses > pauses:
                break


def build_consignment(window: Batch, seed: int = 1) -> Consignment:
    return Consignment(0, [window], Random(seed).random)


def refuse_names(*names: str) -> Callable[[Batch], bool]:
    return lambda batch: any(snapshot.name in names for snapshot in batch)


@given(st.integers(0, 999), st.integers(0, 2**32))
def test_one_poison_among_a_thousand_costs_at_most_eleven_refused_requests(poison: int, seed: int) -> None:
    window = build_window(1_000)
    consignment = build_consignment(window, seed)
    outcome = Outcome(consignment, refuse_names(f"m{poison}"))
    assert [snapshot.name for snapshot in outcome.quarantined] == [f"m{poison}"]
    assert len(outcome.delivered) == 999
    assert outcome.refused <= ceil(log2(1_000)) + 1
    assert (outcome.pauses, consignment.remaining_count) == (0, 0)


@given(st.sets(st.integers(0, 999), min_size=1, max_size=12), st.integers(0, 2**32))
def test_several_poisons_cost_twice_the_logarithm_each_at_most(poison: set[int], seed: int) -> None:
    window = build_window(1_000)
    names = [f"m{number}" for number in poison]
    outcome = Outcome(build_consignment(window, seed), refuse_names(*names))
    assert sorted(snapshot.name for snapshot in outcome.quarantined) == sorted(names)
    assert len(outcome.delivered) == 1_000 - len(poison)
    assert outcome.refused <= len(poison) * 2 * ceil(log2(1_000))


@pytest.mark.parametrize("seed", range(20))
def test_neighbouring_poisons_are_not_taken_for_a_backend_that_refuses_everything(seed: int) -> None:
    names = [f"m{number}" for number in range(40)]
    outcome = Outcome(build_consignment(build_window(1_000), seed), refuse_names(*names))
    assert len(outcome.quarantined) == 40
    assert outcome.pauses == 0


def test_which_half_is_first_is_drawn_so_that_no_round_is_like_the_last() -> None:
    halves: set[str] = set()
    for seed in range(20):
        consignment = build_consignment(build_window(100), seed)
        consignment.next_batch()
        consignment.refuse()
        batch = consignment.next_batch()
        assert batch is not None
        halves.add(batch[0].name)
    assert halves == {"m0", "m50"}


def test_a_backend_that_refuses_everything_costs_a_few_paths_and_quarantines_nothing() -> None:
    consignment = build_consignment(build_window(100_000))
    outcome = Outcome(consignment, lambda _: True)
    assert outcome.requests <= MAX_SUSPECTS * (ceil(log2(100_000)) + 1)
    assert (outcome.quarantined, outcome.pauses) == ([], 1)
    assert consignment.is_stalled
    batch = consignment.next_batch()
    assert batch is not None
    assert {snapshot.name for snapshot in batch} == {snapshot.name for snapshot in build_window(100_000)}


def test_a_stalled_window_is_delivered_whole_when_the_backend_accepts_again() -> None:
    consignment = build_consignment(build_window(100))
    Outcome(consignment, lambda _: True)
    outcome = Outcome(consignment, lambda _: False)
    assert (outcome.requests, len(outcome.delivered), outcome.quarantined) == (1, 100, [])
    assert not consignment.is_stalled


def test_a_datum_alone_is_only_a_suspect_until_the_backend_accepted_another_window() -> None:
    consignment = build_consignment(build_window(1))
    for _ in range(3):
        assert Outcome(consignment, lambda _: True).quarantined == []
        assert consignment.is_stalled
    consignment.vouch()
    outcome = Outcome(consignment, lambda _: True)
    assert (len(outcome.quarantined), consignment.remaining_count) == (1, 0)


def test_a_window_of_which_most_is_poison_finds_what_is_good() -> None:
    good = {f"m{number}" for number in range(0, 1_000, 10)}
    consignment = build_consignment(build_window(1_000))
    outcome = Outcome(consignment, lambda batch: any(s.name not in good for s in batch), pauses=1_000)
    assert {snapshot.name for snapshot in outcome.delivered} == good
    assert len(outcome.quarantined) == 900
    assert outcome.pauses >= outcome.refused // MAX_REFUSED


def test_an_acceptance_long_ago_convicts_nobody() -> None:
    window = build_window(4_096)
    consignment = build_consignment(window)
    accepted = 0

    def refuse_after_ten(batch: Batch) -> bool:
        nonlocal accepted
        if accepted >= 10:
            return True
        accepted += not (refused := any(snapshot.name == "m7" for snapshot in batch))
        return refused

    outcome = Outcome(consignment, refuse_after_ten)
    assert outcome.pauses == 1
    assert len(outcome.quarantined) < 64
    assert len(outcome.delivered) + len(outcome.quarantined) + consignment.remaining_count == 4_096


def test_a_failure_that_may_be_retried_changes_nothing() -> None:
    window = build_window(5)
    consignment = build_consignment(window)
    assert consignment.next_batch() is window
    assert consignment.next_batch() is window
    assert consignment.remaining_count == 5


def test_what_remains_goes_at_once_and_what_is_rejected_never_again() -> None:
    window = build_window(5)
    consignment = build_consignment(window)
    consignment.next_batch()
    effect = consignment.split(PartialExportError(remaining=window[3:], rejected=window[:1]))
    assert (effect.delivered_count, effect.quarantined, effect.pause) == (2, (window[0],), False)
    assert list(consignment.next_batch() or ()) == list(window[3:])


def test_what_remains_waits_where_the_backend_asks_for_it_or_nothing_was_taken() -> None:
    window = build_window(2)
    for error in (
        PartialExportError(remaining=window[1:], retry_after_s=3.0),
        PartialExportError(remaining=window),
    ):
        consignment = build_consignment(window)
        consignment.next_batch()
        assert consignment.split(error).pause


def test_a_partial_answer_counts_only_what_was_sent_and_only_once() -> None:
    window = build_window(4)
    stranger = build_snapshot("stranger")
    error = PartialExportError(
        remaining=[window[0], window[0], window[1], stranger],
        rejected=[window[1], stranger],
    )
    assert match_partial(window, error) == ([window[0]], [window[1]])


def test_a_partial_answer_may_hold_copies() -> None:
    window, copies = build_window(4), build_window(4)
    remaining, rejected = match_partial(window, PartialExportError(remaining=copies[:2], rejected=copies[3:]))
    assert [snapshot.name for snapshot in remaining] == ["m0", "m1"]
    assert [snapshot.name for snapshot in rejected] == ["m3"]


def test_a_window_may_come_as_the_batches_that_a_sink_cut() -> None:
    window = build_window(10)
    consignment = Consignment(0, [window[:4], (), window[4:]], Random(1).random)
    assert consignment.next_batch() == window[:4]
    outcome = Outcome(consignment, refuse_names("m6"))
    assert outcome.delivered[:4] == list(window[:4])
    assert [snapshot.name for snapshot in outcome.quarantined] == ["m6"]


def test_an_answer_to_no_batch_is_a_fault() -> None:
    with pytest.raises(RuntimeError):
        build_consignment(build_window(1)).accept()


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.sampled_from("arpvd"), st.integers(0, 60), st.integers(0, 60)), max_size=60),
    st.integers(0, 2**32),
)
def test_every_snapshot_has_one_fate_whatever_the_answers(
    size: int,
    answers: list[tuple[str, int, int]],
    seed: int,
) -> None:
    consignment = build_consignment(build_window(size), seed)
    fates: list[str] = []
    delivered = 0
    for answer, low, high in answers:
        batch = consignment.next_batch()
        if batch is None:
            break
        if answer == "v":
            consignment.vouch()
            continue
        if answer == "a":
            effect = consignment.accept()
        elif answer == "r":
            effect = consignment.refuse()
        else:
            effect = consignment.split(PartialExportError(remaining=batch[:low], rejected=batch[high:]))
        delivered += effect.delivered_count
        fates.extend(snapshot.name for snapshot in effect.quarantined)
        assert delivered + len(fates) + consignment.remaining_count == size
    assert len(fates) == len(set(fates))
    left = consignment.discard()
    assert delivered + len(fates) + left == size
    assert consignment.next_batch() is None


def test_what_a_sink_rejects_by_itself_convicts_no_suspect() -> None:
    consignment = build_consignment(build_window(2))
    consignment.next_batch()
    consignment.refuse()
    assert consignment.next_batch() is not None
    assert not consignment.refuse().quarantined
    last = consignment.next_batch()
    assert last is not None
    effect = consignment.split(PartialExportError(rejected=last))
    assert effect.quarantined == tuple(last)
    assert effect.pause
    assert consignment.is_stalled
    assert consignment.remaining_count == 1
    waiting = consignment.next_batch()
    assert waiting is not None
    assert len(waiting) == 1


def build_stored(*counts: int, attempted: frozenset[int] = frozenset()) -> Consignment:
    stored = StoredWindow(9, "sink", "w0", 60.0, counts, attempted)
    return Consignment(0, (), Random(1).random, stored=stored)


def load_next(consignment: Consignment) -> Batch:
    part = consignment.next_part()
    assert part is not None
    consignment.load(part, build_window(consignment.counts[part], prefix=f"p{part}-"))
    batch = consignment.next_batch()
    assert batch is not None
    return batch


def test_a_stored_window_is_loaded_part_by_part_and_each_is_done_by_itself() -> None:
    consignment = build_stored(2, 0, 3)
    assert (consignment.remaining_count, consignment.stored, consignment.window_end) == (5, 9, 60.0)
    assert len(load_next(consignment)) == 2
    assert (consignment.next_part(), consignment.current_part) == (None, 0)
    consignment.accept()
    assert consignment.has_done
    (outcome,) = consignment.take_done()
    assert (outcome.part, outcome.delivered, outcome.remaining) == (0, 2, ())
    assert not consignment.has_done
    assert consignment.next_part() == 2


def test_what_is_let_go_has_the_outcome_of_each_part_that_changed_and_is_loaded_again() -> None:
    consignment = build_stored(4, 4)
    load_next(consignment)
    consignment.refuse()
    consignment.next_batch()
    consignment.accept()
    load = consignment.next_batch()
    assert load is not None
    (outcome,) = consignment.let_go()
    assert (outcome.part, outcome.delivered, len(outcome.remaining)) == (0, 2, 2)
    consignment.unload()
    assert (consignment.next_part(), consignment.counts, consignment.remaining_count) == (0, [2, 4], 6)
    assert consignment.let_go() == []


def test_suspects_of_several_parts_are_convicted_each_in_its_own() -> None:
    consignment = build_stored(1, 1, 2)
    for _ in range(2):
        load_next(consignment)
        assert not consignment.refuse().quarantined
    load_next(consignment)
    assert len(consignment.accept().quarantined) == 2
    outcomes = sorted(consignment.take_done(), key=lambda each: each.part)
    assert [(each.quarantined, each.delivered) for each in outcomes] == [(1, 0), (1, 0), (0, 2)]


def test_what_is_kept_is_not_unloaded() -> None:
    consignment = build_stored(2, 2)
    load_next(consignment)
    consignment.let_go()
    consignment.unload({0})
    assert (consignment.next_part(), len(consignment.next_batch() or ())) == (None, 2)


def test_parts_that_an_earlier_daemon_attempted_are_uncertain() -> None:
    consignment = build_stored(2, 3, attempted=frozenset({1}))
    assert (consignment.remaining_count, consignment.has_done) == (2, True)
    assert [(each.part, each.uncertain) for each in consignment.take_done()] == [(1, 3)]


def test_an_evicted_window_goes_on_with_what_is_loaded() -> None:
    consignment = build_stored(2, 3)
    load_next(consignment)
    assert (consignment.evict(), consignment.stored, consignment.remaining_count) == (3, None, 2)
    consignment.accept()
    assert consignment.next_batch() is None


def test_a_part_that_cannot_be_read_is_lost_by_itself() -> None:
    consignment = build_stored(2, 3)
    consignment.lose(0)
    assert [(each.part, each.unreadable) for each in consignment.take_done()] == [(0, 2)]
    assert (consignment.next_part(), consignment.remaining_count) == (1, 3)


def test_a_window_in_memory_is_adopted_by_the_outbox() -> None:
    window = build_window(4)
    consignment = Consignment(0, [window[:2], window[2:]], Random(1).random)
    consignment.next_batch()
    consignment.split(PartialExportError(remaining=window[:1]))
    consignment.take_done()
    consignment.let_go()
    batches = consignment.batches
    assert [len(batch) for batch in batches] == [1, 2]
    consignment.adopt(StoredWindow(7, "sink", "w0", 60.0, (1, 2)))
    assert (consignment.stored, consignment.next_part(), consignment.remaining_count) == (7, 0, 3)


def test_what_is_given_up_is_uncertain_and_the_rest_has_its_answer() -> None:
    window = build_window(5)
    consignment = build_consignment(window)
    consignment.next_batch()
    assert consignment.give_up(window[3:]) == 2
    effect = consignment.split(PartialExportError(remaining=window[2:3]))
    assert (effect.delivered_count, consignment.remaining_count) == (2, 1)
    assert consignment.next_batch() == [window[2]]
    assert consignment.give_up() == 1
    (outcome,) = consignment.take_done()
    assert (outcome.delivered, outcome.uncertain) == (2, 3)
