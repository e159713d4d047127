"""Scenario and outcome -> a row of the table in docs/operations.md, and back."""

import re
from collections.abc import Mapping

from msgspec import Struct

from tests.pod.life import Outcome
from tests.pod.scenarios import Scenario

HEAD = "| what happens | lost | seconds | until |\n|---|---|---|---|"

NOTHING = "nothing"

_ROW = re.compile(
    r"^\| (?P<title>[^|]+) \| (?P<lost>[^|]+) \| (?P<seconds>\d+\.\d\d) \| (?P<until>[^|]+) \|$", re.MULTILINE
)


class Row(Struct, frozen=True):
    """A row of the page.

    Attributes:
        lost: NOTHING, or a number and what was lost.
        until: what the seconds go to.
    """

    lost: str
    until: str


def write_row(scenario: Scenario, outcome: Outcome) -> str:
    """Return the row of a scenario."""
    lost = f"{outcome.lost:,} {scenario.loses}" if scenario.loses else NOTHING
    return f"| {scenario.title} | {lost} | {outcome.seconds:.2f} | {scenario.until} |"


def read_rows(text: str) -> Mapping[str, Row]:
    """Return the rows of a page that are of this form, by title."""
    return {row["title"]: Row(row["lost"], row["until"]) for row in _ROW.finditer(text)}


__all__ = ["HEAD", "NOTHING", "Row", "read_rows", "write_row"]
