"""PromQL -> the metrics and labels that it names, as far as our alerts and dashboard use the language."""

import re
from collections.abc import Iterator

_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_GROUPINGS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTORS = re.compile(r"\{[^}]*\}")
_RANGES = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_NAMES = re.compile(r"(?<![\w$.])[A-Za-z_:][\w:]*\b(?!\s*\()")
_WORDS = frozenset({"and", "bool", "by", "on", "or", "sum", "unless", "without"})

_SELECTED = re.compile(r"([A-Za-z_:][\w:]*)\{([^}]*)\}")
_MATCHED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\bby\s*\(([^)]*)\)\s*\(")
_JOINED = re.compile(r"\b(?:on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")
_VARIABLES = re.compile(r"\$\{?(\w+)")


def list_metrics(expression: str) -> set[str]:
    """Return the names of metrics in an expression."""
    text = expression
    for pattern in (_STRINGS, _GROUPINGS, _SELECTORS, _RANGES):
        text = pattern.sub(" ", text)
    # What an aggregation is grouped by may stand between its name and its arguments.
    return {name for name in _NAMES.findall(text) if name not in _WORDS | {"max", "min", "avg", "count"}}


def list_labels(expression: str) -> Iterator[tuple[str, str]]:
    """Yield each metric with each label that is asked of it: by a matcher, a grouping, or a join."""
    for metric, matchers in _SELECTED.findall(_STRINGS.sub('""', expression)):
        for label in _MATCHED.findall(matchers):
            yield metric, label
    for found in _GROUPED.finditer(expression):
        yield from _pair(_take_group(expression, found.end()), found[1])
    for labels in _JOINED.findall(expression):
        yield from _pair(expression, labels)


def list_groupings(expression: str) -> list[set[str]]:
    """Return the labels of each grouping."""
    return [set(re.findall(r"\w+", labels)) for labels in _GROUPED.findall(expression)]


def list_variables(expression: str) -> set[str]:
    """Return the dashboard's variables in an expression, but for those that Grafana itself defines."""
    return {name for name in _VARIABLES.findall(expression) if not name.startswith("__")}


def _pair(expression: str, labels: str) -> Iterator[tuple[str, str]]:
    for metric in list_metrics(expression):
        for label in re.findall(r"\w+", labels):
            yield metric, label


def _take_group(expression: str, begin: int) -> str:
    """Return the text up to the parenthesis that closes the one before `begin`."""
    depth = 1
    text = _STRINGS.sub(lambda found: " " * len(found[0]), expression)
    for place in range(begin, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return expression[begin:place]
    raise ValueError(f"a parenthesis is not closed: {expression}")


__all__ = ["list_groupings", "list_labels", "list_metrics", "list_variables"]
