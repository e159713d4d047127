from math import inf, nan

import pytest

from aiokpl_metricsd.delivering.backoff import MAX_RETRY_AFTER_S, Backoff


def test_the_bound_doubles_up_to_the_cap() -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.next_s() for _ in range(9)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_the_whole_range_below_the_bound_is_drawn_from() -> None:
    assert Backoff(lambda: 0.0).next_s() == 0.0
    assert Backoff(lambda: 0.25).next_s() == 0.25


def test_a_success_begins_anew() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 1.0


def test_what_the_backend_asked_for_is_never_shortened() -> None:
    backoff = Backoff(lambda: 0.5)
    assert backoff.next_s(90.0) == 90.5
    assert backoff.next_s(1e9) == MAX_RETRY_AFTER_S + 0.5


@pytest.mark.parametrize("nonsense", [nan, inf, -1.0, 0.0, None])
def test_what_is_no_time_to_wait_is_ignored(nonsense: float | None) -> None:
    assert Backoff(lambda: 0.5).next_s(nonsense) == 0.5


def test_a_million_failures_do_not_overflow() -> None:
    backoff = Backoff(lambda: 1.0)
    backoff.failures = 1_000_000
    assert backoff.next_s() == 60.0
