"""What was found -> lines for people, or JSON; and the exit status. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from aiokpl_metricsd.examining.examination import Found
from aiokpl_metricsd.examining.finding import Outcome, find_worst
from aiokpl_metricsd.rendering.table import escape_text

EXIT_STATUS: Final[Mapping[Outcome, int]] = MappingProxyType(
    {Outcome.OK: 0, Outcome.WARNING: 1, Outcome.FAILURE: 2}
)

_GAP = "  "
_ARROW = "-> "


def choose_status(found: Sequence[Found]) -> int:
    """Return the exit status: 0 where all is well, 1 with warnings, 2 with failures."""
    return EXIT_STATUS[find_worst(each.finding for each in found)]


def render_report(found: Sequence[Found]) -> str:
    """Return a line for each finding, its advice below, and the sum of all in the last line."""
    width = max((len(each.check) for each in found), default=0)
    margin = " " * (len(Outcome.FAILURE) + len(_GAP))
    lines: list[str] = []
    for each in found:
        finding = each.finding
        head = f"{finding.outcome.value:<{len(Outcome.FAILURE)}}{_GAP}{each.check:<{width}}{_GAP}"
        lines.append(escape_text(f"{head}{finding.message}"))
        if finding.advice:
            lines.append(escape_text(f"{margin}{'':<{width}}{_GAP}{_ARROW}{finding.advice}"))
    counts = Counter(each.finding.outcome for each in found)
    lines.append(", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome))
    return "\n".join(lines) + "\n"


def encode_report(found: Sequence[Found]) -> bytes:
    """Return all of it as one JSON object on one line."""
    findings = [
        {
            "check": each.check,
            "outcome": each.finding.outcome.value,
            "message": each.finding.message,
            "advice": each.finding.advice,
        }
        for each in found
    ]
    worst = find_worst(each.finding for each in found)
    return msgspec.json.encode({"outcome": worst.value, "findings": findings}) + b"\n"


__all__ = ["EXIT_STATUS", "choose_status", "encode_report", "render_report"]
