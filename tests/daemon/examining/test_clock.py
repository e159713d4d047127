import time

import pytest

from aiokpl_metricsd.examining.clock import check_epoch, check_offsets
from aiokpl_metricsd.examining.finding import Outcome


def test_a_clock_that_lost_the_time_is_a_failure() -> None:
    assert check_epoch(0.0).outcome is Outcome.FAILURE
    assert check_epoch(max(time.time(), 1_800_000_000.0)).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("offset_s", "outcome", "said"),
    [
        (0.4, Outcome.OK, "as the backend of cw says"),
        (-5.0, Outcome.OK, "as the backend of cw says"),
        (6.0, Outcome.WARNING, "6.0 s ahead of the backend of cw"),
        (-60.0, Outcome.WARNING, "60.0 s behind the backend of cw"),
        (-300.0, Outcome.FAILURE, "300.0 s behind the backend of cw, which may refuse what it is sent"),
    ],
)
def test_the_distance_to_the_backend_decides(offset_s: float, outcome: Outcome, said: str) -> None:
    (finding,) = check_offsets({"cw": offset_s})
    assert (finding.outcome, finding.message) == (outcome, said)
    assert bool(finding.advice) == (outcome is not Outcome.OK)


def test_without_a_backend_that_says_the_time_nothing_is_said() -> None:
    assert list(check_offsets({})) == []
