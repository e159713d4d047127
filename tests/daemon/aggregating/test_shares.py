"""Places of summed gauges' shares: who needs one, who has one, and what is refused."""

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.shares import Shares
from aiokpl_metricsd.aggregating.statistics import Statistics, build_statistics


def build() -> Statistics:
    return build_statistics(MetricKind.GAUGE, is_summed=True)


def test_a_source_takes_one_place_in_each_window_however_often_it_tells() -> None:
    shares = Shares(10)
    first, second = build(), build()
    for statistics in (first, second, first, second):
        assert shares.add(statistics, 1, 2.0, 5)
    assert shares.taken == 2
    assert shares.add(first, 2, 2.0, 5)
    assert shares.taken == first.count_shares() + second.count_shares() == 3


def test_where_no_place_is_free_who_has_one_tells_on_and_another_is_not_noted() -> None:
    shares = Shares(1)
    statistics = build()
    assert shares.add(statistics, 1, 2.0, 5)
    assert not shares.add(statistics, 2, 10.0, 5)
    assert shares.add(statistics, 1, 3.0, 6)
    assert (statistics.sum_shares(), shares.taken) == (3.0, 1)


def test_a_place_that_is_given_back_is_free_again() -> None:
    shares = Shares(1)
    assert shares.add(build(), 1, 2.0, 5)
    shares.give_back(1)
    assert shares.add(build(), 2, 2.0, 5)


def test_what_is_restored_may_be_more_than_there_are_places_and_is_then_all() -> None:
    shares = Shares(1)
    statistics = build()
    statistics.add_share(1, 2.0, 5)
    statistics.add_share(2, 2.0, 5)
    shares.take(statistics.count_shares())
    assert not shares.add(statistics, 3, 2.0, 5)
    shares.give_back(1)
    assert not shares.add(statistics, 3, 2.0, 5)
    shares.give_back(1)
    assert shares.add(statistics, 3, 2.0, 5)
