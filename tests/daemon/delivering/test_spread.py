"""Where in the interval each daemon of a fleet exports."""

from collections import Counter

import pytest

from aiokpl_metricsd.delivering.spread import choose_hold, choose_spread, find_identity
from aiokpl_metricsd.sinks import NullSink


class SharedSink(NullSink):
    """Its backend is that of the whole fleet."""

    spread = True


def test_without_a_setting_only_a_sink_whose_backend_is_shared_spreads() -> None:
    assert choose_spread(None, NullSink(), 60) == 0.0
    assert choose_spread(None, SharedSink(), 60) == pytest.approx(6.0)
    assert choose_spread(None, SharedSink(), 1) == pytest.approx(0.1)
    assert choose_spread(None, SharedSink(), 3600) == 10.0


def test_the_operator_overrules_the_sink_both_ways() -> None:
    assert choose_spread(5.0, NullSink(), 60) == 5.0
    assert choose_spread(0.0, SharedSink(), 60) == 0.0


def test_a_daemon_has_the_same_place_each_time_and_each_of_its_sinks_another_one() -> None:
    held = choose_hold(6.0, "orders-7", "cloudwatch")
    assert held == choose_hold(6.0, "orders-7", "cloudwatch")
    assert 0.0 <= held < 6.0
    assert held != choose_hold(6.0, "orders-7", "datadog")
    assert held != choose_hold(6.0, "orders-8", "cloudwatch")
    assert choose_hold(0.0, "orders-7", "cloudwatch") == 0.0


def test_a_fleet_is_spread_evenly() -> None:
    seconds = Counter(int(choose_hold(10.0, f"orders-{number}", "cloudwatch")) for number in range(10_000))
    assert set(seconds) == set(range(10))
    # A thousand each, give or take four standard deviations of a fair draw, which are 30.
    assert all(880 <= count <= 1_120 for count in seconds.values())


def test_the_pod_s_name_goes_before_the_host_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiokpl_metricsd.delivering.spread.gethostname", lambda: "node-1")
    assert find_identity({"POD_NAME": "orders-7"}) == "orders-7"
    assert find_identity({"POD_NAME": ""}) == "node-1"
