"""Why something on the wire is refused: one word each, the same in the code, the ledger and the log."""

from enum import Enum


class Reason(str, Enum):
    """Why a frame, a series or an event is refused. The value is the word that is counted and logged."""

    # A frame that does not decode is refused whole.
    MALFORMED = "malformed"
    UNKNOWN_TAG = "unknown_tag"
    NESTING = "nesting"
    WRONG_TYPE = "wrong_type"
    TEXT = "text"
    TOO_LARGE = "too_large"
    UNEXPECTED_FRAME = "unexpected_frame"
    # Of a user who may not send; nobody looks into it.
    NOT_ALLOWED = "not_allowed"

    # In a frame that decodes, an event, a column or a folded set that breaks a limit costs only itself.
    VALUE_NOT_FINITE = "value_not_finite"
    COUNT_OUT_OF_RANGE = "count_out_of_range"
    STATISTICS_INCONSISTENT = "statistics_inconsistent"
    SERIES_UNREADABLE = "series_unreadable"
    NAME_EMPTY = "name_empty"
    NAME_TOO_LONG = "name_too_long"
    TOO_MANY_DIMENSIONS = "too_many_dimensions"
    DIMENSION_EMPTY = "dimension_empty"
    DIMENSION_TOO_LONG = "dimension_too_long"
    DIMENSION_DUPLICATE = "dimension_duplicate"
    KIND_UNKNOWN = "kind_unknown"
    UNIT_TOO_LONG = "unit_too_long"

    # A summed gauge has values of more producers than the daemon has room for.
    TOO_MANY_PRODUCERS = "too_many_producers"

    def __str__(self) -> str:
        """Return the word itself, the same on every Python."""
        return self.value


__all__ = ["Reason"]
