"""PromQL -> the metrics that it names, as far as our alerts and dashboard use the language."""

import re

_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_GROUPINGS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTORS = re.compile(r"\{[^}]*\}")
_RANGES = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_NAMES = re.compile(r"(?<![\w$.])[A-Za-z_:][\w:]*\b(?!\s*\()")
_WORDS = frozenset({"and", "bool", "by", "on", "or", "sum", "unless", "without"})


def list_metrics(expression: str) -> set[str]:
    """Return the names of metrics in an expression."""
    text = expression
    for pattern in (_STRINGS, _GROUPINGS, _SELECTORS, _RANGES):
        text = pattern.sub(" ", text)
    # What an aggregation is grouped by may stand between its name and its arguments.
    return {name for name in _NAMES.findall(text) if name not in _WORDS | {"max", "min", "avg", "count"}}


__all__ = ["list_metrics"]
