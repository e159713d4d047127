"""The soak, for some seconds: `make soak` runs it for ten minutes."""

import pytest

from tests.soak.samples import Sample, find_growth
from tests.soak.soak import Plan, soak


@pytest.mark.slow
def test_every_request_counts_once_while_workers_and_the_daemon_come_and_go() -> None:
    said: list[str] = []
    plan = Plan(seconds=7.0, restart_s=2.0, requests_per_worker=30, sample_s=1.0)
    assert soak(plan, said.append) == []
    assert "all counted once: True" in said[-2]


def test_what_grows_is_found_and_what_is_flat_is_not() -> None:
    flat = [Sample(at_s, 8 + at_s % 2, 30_000_000 + at_s % 3 * 100_000) for at_s in range(100)]
    assert find_growth(flat) == []
    leak = [Sample(at_s, 8, 30_000_000 + at_s * 100_000) for at_s in range(100)]
    assert find_growth(leak) == ["4.8 MiB more at the end"]
    lost = [Sample(at_s, 8 + at_s // 5, 30_000_000) for at_s in range(100)]
    assert find_growth(lost) == ["10 descriptors more at the end"]
    assert find_growth([]) == ["there is no sample"]
