"""docs/operations.md has what happens to a pod as the scenarios do, and a number for each."""

from pathlib import Path

import pytest

from tests.pod.life import Outcome
from tests.pod.page import HEAD, NOTHING, Row, read_rows, write_row
from tests.pod.scenarios import SCENARIOS, Scenario

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_every_scenario_has_a_row_that_says_what_is_lost(scenario: Scenario) -> None:
    row = read_rows(PAGE.read_text(encoding="utf-8"))[scenario.title]
    assert row.until == scenario.until
    number, _, words = row.lost.partition(" ")
    assert (words if scenario.loses else row.lost) == (scenario.loses or NOTHING)
    assert not scenario.loses or int(number.replace(",", "")) >= 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_what_the_command_prints_is_such_a_row(scenario: Scenario) -> None:
    printed = write_row(scenario, Outcome(lost=1_234, seconds=12.345))
    lost = f"1,234 {scenario.loses}" if scenario.loses else NOTHING
    assert read_rows(f"{HEAD}\n{printed}\n") == {scenario.title: Row(lost, scenario.until)}


def test_the_page_has_no_row_of_a_scenario_that_is_gone_and_one_command_for_all() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert HEAD in text
    assert list(read_rows(text)) == [scenario.title for scenario in SCENARIOS]
    assert '`make pod-life POD_ARGS="--times 3"`' in text
