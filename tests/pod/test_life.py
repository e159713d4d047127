"""What happens to a pod costs what docs/operations.md says: nothing, or what is counted there."""

import pytest

from tests.pod.life import open_life
from tests.pod.scenarios import SCENARIOS, Scenario


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_what_happens_to_a_pod_loses_nothing_but_what_the_page_says(scenario: Scenario) -> None:
    outcome = scenario.run()
    assert outcome.lost == 0 or scenario.loses
    assert outcome.seconds > 0


def test_a_window_that_is_missing_or_wrong_would_be_noticed() -> None:
    with open_life() as life:
        life.begin()
        life.end_service()
        life.end_daemon()
        assert life.count_lost() == 0
        path = life.pod.results.seen / "windows.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[1:]))
        assert life.count_lost() > 0
        path.write_bytes(b"".join(lines).replace(b'"sum":', b'"sum":1', 1))
        with pytest.raises(AssertionError):
            life.count_lost()
        path.write_bytes(b"".join([*lines, lines[0]]))
        with pytest.raises(AssertionError):
            life.count_lost()
