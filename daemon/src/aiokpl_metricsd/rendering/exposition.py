"""Names, labels and numbers -> the two text formats that a scraper reads.

The text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats, read 2026-11) and OpenMetrics
1.0 (the specification of that name, read 2026-11). Pure; what a producer sends can break neither: every
character that a name, a label or a help text cannot hold is escaped or replaced.
"""

import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from sys import float_info

from aiokpl_metrics_protocol import MetricKind


class Form(Enum):
    """A format of the page; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


# What ends a page in OpenMetrics; the other format has no end.
EOF_LINE = "# EOF\n"

_OPENMETRICS_VERSIONS = frozenset({"", "1.0.0", "0.0.1"})
_TEXT_VERSIONS = frozenset({"", "0.0.4"})

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_TO_ESCAPE = re.compile(r'[\\"\n\0]')
# NUL ends the page for the scraper's lexer, so it becomes the replacement character.
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\0": "\ufffd"}

# Labels that begin like this are the scraper's own.
_RESERVED_PREFIX = "__"
_MOVED_PREFIX = "exported"

# Units by the words that the format's guide to names asks for (prometheus.io/docs/practices/naming, read
# 2026-11). A unit that is not here stands for itself.
_UNIT_WORDS = {
    "%": "percent",
    "By": "bytes",
    "b": "bytes",
    "byte": "bytes",
    "h": "hours",
    "m": "meters",
    "min": "minutes",
    "ms": "milliseconds",
    "ns": "nanoseconds",
    "s": "seconds",
    "us": "microseconds",
    "µs": "microseconds",
}

_EXPONENT_FROM = 1e6


def escape_name(name: str) -> str:
    """Return a metric's name with what it cannot hold as underscores."""
    name = _NOT_IN_NAME.sub("_", name)
    return f"_{name}" if not name or name[0].isdigit() else name


@lru_cache(maxsize=1_000)
def escape_label(key: str, *, is_histogram: bool = False) -> str:
    """Return a label's name; one that the format keeps for itself begins with `exported`."""
    key = _NOT_IN_LABEL.sub("_", key)
    if key.startswith(_RESERVED_PREFIX):
        return _MOVED_PREFIX + key
    if is_histogram and key == "le":
        return f"{_MOVED_PREFIX}_{key}"
    return f"_{key}" if not key or key[0].isdigit() else key


def escape_value(value: str) -> str:
    """Return a text between quotes: a label's value, or a help text in OpenMetrics."""
    if not value.isascii():
        value = value.encode(errors="replace").decode()
    return _TO_ESCAPE.sub(_find_escape, value) if _TO_ESCAPE.search(value) else value


def _find_escape(match: re.Match[str]) -> str:
    return _ESCAPES[match[0]]


def encode_labels(dimensions: Iterable[tuple[str, str]], *, is_histogram: bool = False) -> str:
    """Return the labels without their braces, in the order of the dimensions; "" where there are none.

    Two keys that escape to one label are told apart by a number at the end of the second.
    """
    labels: dict[str, str] = {}
    for key, value in dimensions:
        label = name = escape_label(key, is_histogram=is_histogram)
        number = 1
        while label in labels:
            number += 1
            label = escape_label(f"{name}_{number}", is_histogram=is_histogram)
        labels[label] = value
    return ",".join([f'{label}="{escape_value(value)}"' for label, value in labels.items()])


def format_number(value: float) -> str:
    """Return a number as both formats read it. A sum that overflowed is the largest finite number."""
    if value - value != 0.0:
        value = min(max(-float_info.max, value), float_info.max)
    return repr(value)


def format_bound(bound: float) -> str:
    """Return a bucket's bound in the one spelling that OpenMetrics has for it."""
    if bound >= _EXPONENT_FROM and bound.is_integer() and "e" not in repr(bound):
        digits = str(int(bound))
        mantissa = f"{digits[0]}.{digits[1:].rstrip('0')}".rstrip(".")
        return f"{mantissa}e+{len(digits) - 1:02d}"
    return repr(bound)


def find_unit(name: str, unit: str | None) -> str:
    """Return the unit that a family's own name ends with, or "": only then may the page declare it."""
    if not unit:
        return ""
    for word in (unit, _UNIT_WORDS.get(unit, "")):
        if word and name.endswith(f"_{word}"):
            return word
    return ""


def encode_head(form: Form, name: str, kind: MetricKind, help_text: str, unit: str = "") -> str:
    """Return the lines before a family's samples.

    Args:
        form: of the page.
        name: the family's, without `_total`.
        kind: what it measures.
        help_text: one sentence.
        unit: as `find_unit` has it.
    """
    text = escape_value(help_text)
    if form is Form.OPENMETRICS:
        head = f"# HELP {name} {text}\n# TYPE {name} {kind.value}\n"
        return f"{head}# UNIT {name} {unit}\n" if unit else head
    if kind is MetricKind.COUNTER:
        name += "_total"
    # Quotes are no special characters of this format's help texts.
    text = text.replace('\\"', '"')
    return f"# HELP {name} {text}\n# TYPE {name} {kind.value}\n"


def choose_form(accept: str) -> Form:
    """Return the format that a request's Accept header prefers; the text format where it does not say."""
    wishes = {Form.TEXT: 0.0, Form.OPENMETRICS: 0.0}
    for wish in accept.lower().split(","):
        kind, *rest = [part.strip() for part in wish.split(";")]
        parameters = _read_parameters(rest)
        version = parameters.get("version", "").strip('"')
        quality = read_quality(parameters.get("q", "1"))
        if kind == "application/openmetrics-text" and version in _OPENMETRICS_VERSIONS:
            wishes[Form.OPENMETRICS] = max(wishes[Form.OPENMETRICS], quality)
        elif (kind == "text/plain" and version in _TEXT_VERSIONS) or kind in ("text/*", "*/*"):
            wishes[Form.TEXT] = max(wishes[Form.TEXT], quality)
    return Form.OPENMETRICS if wishes[Form.OPENMETRICS] > wishes[Form.TEXT] else Form.TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether an Accept-Encoding header allows gzip."""
    wishes = {"gzip": 0.0, "*": 0.0}
    for wish in accept_encoding.lower().split(","):
        coding, *rest = [part.strip() for part in wish.split(";")]
        quality = read_quality(_read_parameters(rest).get("q", "1"))
        if coding in wishes:
            wishes[coding] = quality
            if coding == "gzip":
                return quality > 0.0
    return wishes["*"] > 0.0


def _read_parameters(parts: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        found[key] = value
    return found


def read_quality(text: str) -> float:
    """Return a header's quality value, 0 where it is none."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0


__all__ = [
    "EOF_LINE",
    "Form",
    "accepts_gzip",
    "choose_form",
    "encode_head",
    "encode_labels",
    "escape_label",
    "escape_name",
    "escape_value",
    "find_unit",
    "format_bound",
    "format_number",
    "read_quality",
]
