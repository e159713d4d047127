"""A series' name, unit, dimensions and times -> OpenTelemetry's terms. Pure, and without its packages.

Nothing is lost by mending: a name that had to be changed keeps what it was in an attribute, so that two
series never become one.
"""

import re
from functools import lru_cache
from math import isfinite

# What an instrument may be called: a letter, then at most 254 of these (metrics API specification,
# "Instrument name syntax", and opentelemetry-api 1.45, read 2026-11).
MAX_NAME_CHARS = 255
_FOREIGN = re.compile(r"[^-_./a-zA-Z0-9]")

# A unit is ASCII and has at most so many characters (the same, "Instrument unit", read 2026-11).
MAX_UNIT_CHARS = 63

# Times are unsigned 64-bit nanoseconds (opentelemetry-proto 1.7, metrics.proto, fixed64, read 2026-11).
_MAX_TIME_NS = 2**64 - 1
_NS_PER_S = 1_000_000_000

# Where a name was mended, this attribute has the original.
ORIGINAL_NAME = "aiokpl.metric.name"

# Words for units, lower-cased, and their UCUM codes (The Unified Code for Units of Measure 2.1, read
# 2026-11). A count is an annotation and not "1": the latter means a ratio, and Prometheus appends "_ratio"
# for it.
_UCUM = {
    "count": "{count}",
    "none": "1",
    "ratio": "1",
    "percent": "%",
    "nanosecond": "ns",
    "nanoseconds": "ns",
    "microsecond": "us",
    "microseconds": "us",
    "µs": "us",
    "μs": "us",
    "millisecond": "ms",
    "milliseconds": "ms",
    "second": "s",
    "seconds": "s",
    "sec": "s",
    "minute": "min",
    "minutes": "min",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
    "byte": "By",
    "bytes": "By",
    "kilobyte": "kBy",
    "kilobytes": "kBy",
    "megabyte": "MBy",
    "megabytes": "MBy",
    "gigabyte": "GBy",
    "gigabytes": "GBy",
    "terabyte": "TBy",
    "terabytes": "TBy",
    "kibibyte": "KiBy",
    "kibibytes": "KiBy",
    "mebibyte": "MiBy",
    "mebibytes": "MiBy",
    "gibibyte": "GiBy",
    "gibibytes": "GiBy",
    "bits": "bit",
    "kilobits": "kbit",
    "megabits": "Mbit",
    "gigabits": "Gbit",
    "terabits": "Tbit",
    "hertz": "Hz",
    "celsius": "Cel",
    "kelvin": "K",
    "meter": "m",
    "meters": "m",
    "gram": "g",
    "grams": "g",
    "joule": "J",
    "joules": "J",
    "watt": "W",
    "watts": "W",
    "volt": "V",
    "volts": "V",
    "ampere": "A",
    "amperes": "A",
}

# What is a code already.
_CODES = frozenset(_UCUM.values()) | {
    "kB",
    "B",
    "a",
    "mo",
    "wk",
    "mm",
    "cm",
    "km",
    "kg",
    "mW",
    "kW",
    "MHz",
    "GHz",
}
_IS_ANNOTATED = re.compile(r"[!-~]*\{[!-~]*\}[!-~]*")


@lru_cache(maxsize=8192)
def encode_name(prefix: str, name: str) -> tuple[str, bool]:
    """Return the name that an instrument may have, and whether it had to be mended.

    Letters keep their case. A character outside the syntax becomes "_", a first one that is no letter gets
    "m_" before it, and what is too long is cut.

    Raises:
        ValueError: the name is empty.
    """
    if not name:
        raise ValueError("a metric has no name")
    whole = prefix + name
    mended = _FOREIGN.sub("_", whole)
    if not mended[0].isalpha():
        mended = f"m_{mended}"
    mended = mended[:MAX_NAME_CHARS]
    return mended, mended != whole


@lru_cache(maxsize=1024)
def encode_unit(unit: str | None) -> str:
    """Return the unit's UCUM code, "" for none. A word that is no unit is an annotation, as "{records}"."""
    if not unit:
        return ""
    numerator, separator, denominator = unit.partition("/")
    code = _encode_simple(numerator)
    if separator:
        code = f"{code}/{_encode_simple(denominator)}"
    return code[:MAX_UNIT_CHARS] if len(code) <= MAX_UNIT_CHARS else ""


def _encode_simple(unit: str) -> str:
    unit = unit.strip()
    if unit in _CODES or _IS_ANNOTATED.fullmatch(unit):
        return unit
    known = _UCUM.get(unit.lower())
    if known is not None:
        return known
    # An annotation is printable ASCII without braces (UCUM, section 6, read 2026-11).
    words = "".join(char if "!" <= char <= "~" and char not in "{}" else "_" for char in unit)
    return f"{{{words}}}"


def encode_attributes(dimensions: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return the dimensions as attributes; what UTF-8 cannot carry becomes "?".

    Raises:
        ValueError: two dimensions have one key, or a key is empty.
    """
    attributes = {_encode_text(key): _encode_text(value) for key, value in dimensions}
    if len(attributes) != len(dimensions):
        raise ValueError("two dimensions have one key")
    if "" in attributes:
        raise ValueError("a dimension has no key")
    return attributes


def _encode_text(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def encode_time_ns(time_s: float) -> int:
    """Return epoch seconds as nanoseconds; 0, which means unknown, where they are none.

    Whole seconds are exact; a fraction is as near as a double has it.
    """
    if not isfinite(time_s) or time_s <= 0.0:
        return 0
    whole = int(time_s)
    time_ns = whole * _NS_PER_S + round((time_s - whole) * _NS_PER_S)
    return time_ns if time_ns <= _MAX_TIME_NS else 0


__all__ = [
    "MAX_NAME_CHARS",
    "MAX_UNIT_CHARS",
    "ORIGINAL_NAME",
    "encode_attributes",
    "encode_name",
    "encode_time_ns",
    "encode_unit",
]
