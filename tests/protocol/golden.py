"""tests/golden/v1.txt -> frames to compare with, and any decoded frame -> the JSON that is written there."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from aiokpl_metrics_protocol import Frame, Series, decode, decode_series

PATH = Path(__file__).parent.parent / "golden" / "v1.txt"


class Golden(NamedTuple):
    """One golden frame or series blob, as the file has it."""

    name: str
    data: bytes
    value: dict[str, Any]
    is_exact: bool


def read_golden() -> dict[str, Golden]:
    """Return every golden frame by its name, in the order of the file."""
    found: dict[str, Golden] = {}
    for name, lines in _split_blocks(PATH.read_text(encoding="utf-8")):
        items = [line.partition(":") for line in lines]
        fields = {key: rest.strip() for key, _, rest in items}
        if name in found or set(fields) != {"about", "hex", "value", "exact"}:
            raise ValueError(f"{PATH.name}: [{name}] is there twice or lacks a line")
        data = bytes.fromhex("".join(rest for key, _, rest in items if key == "hex"))
        found[name] = Golden(
            name, data, json.loads(fields["value"]), {"yes": True, "no": False}[fields["exact"]]
        )
    return found


def decode_golden(golden: Golden) -> Frame | Series:
    """Decode a golden frame, or a series blob, by what it says it is."""
    return decode_series(golden.data) if "Series" in golden.value else decode(golden.data)


def describe(value: Frame | Series) -> dict[str, Any]:
    """Return a decoded value as the JSON of the golden file: bytes in hex, what is not finite by name."""
    return {type(value).__name__: _describe(value)}


def dump(value: object) -> str:
    """Return JSON in which 1, 1.0 and true differ, as they do not under `==`."""
    return json.dumps(value, sort_keys=True)


def _describe(value: object) -> object:
    if isinstance(value, Struct):
        return {name: _describe(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _split_blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = "", list[str]()
    for line in text.splitlines():
        if line.startswith("["):
            if name:
                yield name, lines
            name, lines = line.strip("[]"), []
        elif line and not line.startswith("#"):
            lines.append(line)
    if name:
        yield name, lines


__all__ = ["PATH", "Golden", "decode_golden", "describe", "dump", "read_golden"]
