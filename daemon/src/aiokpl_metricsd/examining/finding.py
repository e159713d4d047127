"""What one check says: how it stands, in one line, and what to do where it does not stand well."""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

# Of what raised an error that no check expects.
REPORT_ADVICE = "this is a defect: mend it where it is a sink of your own, else report it"


class Outcome(StrEnum):
    """How something stands. The value is the word that is shown."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Finding(Struct, frozen=True):
    """What one check says of one thing.

    Attributes:
        outcome: a failure keeps the daemon from its work, or a sink from its backend; a warning may, later.
        message: what was found, in one line.
        advice: what to do; "" where nothing is.
    """

    outcome: Outcome
    message: str
    advice: str = ""


def find_ok(message: str) -> Finding:
    """Return that all is well."""
    return Finding(Outcome.OK, message)


def warn(message: str, advice: str) -> Finding:
    """Return what may become a failure."""
    return Finding(Outcome.WARNING, message, advice)


def fail(message: str, advice: str) -> Finding:
    """Return what keeps something from working."""
    return Finding(Outcome.FAILURE, message, advice)


def find_worst(findings: Iterable[Finding]) -> Outcome:
    """Return how all of it stands together."""
    outcomes = {finding.outcome for finding in findings}
    return next((each for each in (Outcome.FAILURE, Outcome.WARNING) if each in outcomes), Outcome.OK)


__all__ = ["REPORT_ADVICE", "Finding", "Outcome", "fail", "find_ok", "find_worst", "warn"]
