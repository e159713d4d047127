"""docs/protocol.md -> the samples, dumps and tables in it, so that tests can hold the page to its word."""

import re
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).parent.parent.parent / "docs" / "protocol.md"

_DUMP = re.compile(
    r"^Golden frame `([\w-]+)`:\n\n```hexdump\n(.*?)^```\n\n```json\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Dump(NamedTuple):
    """A hex dump, and the JSON of what it decodes to."""

    name: str
    data: bytes
    value: str


def read_dumps() -> list[Dump]:
    """Return every hex dump of the page. What follows `#` in a line is for people."""
    found = _DUMP.findall(_read())
    return [
        Dump(name, bytes.fromhex("".join(line.partition("#")[0] for line in dump.splitlines())), value)
        for name, dump, value in found
    ]


def read_sample(language: str) -> str:
    """Return the page's one sample in a language."""
    (sample,) = re.findall(rf"^```{language}\n(.*?)^```$", _read(), re.DOTALL | re.MULTILINE)
    return str(sample)


def read_table(heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, without its head; code marks are taken off."""
    _, found, section = _read().partition(f"# {heading}\n")
    if not found:
        raise ValueError(f"{PATH.name} has no heading {heading!r}")
    lines = section.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|")) + 2
    rows: list[list[str]] = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def _read() -> str:
    return PATH.read_text(encoding="utf-8")


__all__ = ["PATH", "Dump", "read_dumps", "read_sample", "read_table"]
