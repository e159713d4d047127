"""Samples -> one table, for the terminal and as Markdown, and a JSON document with every value."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from bench.budgets import BUDGETS, OTHERS
from bench.machine import describe_versions
from bench.rows import SECTIONS, UNITS, Row
from bench.samples import Samples

_HEADER = ("what", "ours", "budget", "met?", "best peer", "ours / peer")
_NONE = "-"

_PEERS = ("aiokpl.", "datadog.", "opentelemetry.", "prometheus.", "spectator.", "statsd.")


class Line(NamedTuple):
    """One row as text, in the order of the table's columns."""

    what: str
    ours: str
    budget: str
    met: str
    peer: str
    ratio: str


class Document(msgspec.Struct):
    """What the JSON file holds.

    Attributes:
        command: what made it.
        passes: how often everything was measured.
        machine: what it was measured on.
        versions: of the libraries compared.
        figures: what is reported, by key.
        samples: every value by key, in the order of measuring.
        skipped: cases that could not be measured, with the reason.
        notes: remarks.
        errors: measurements that failed.
    """

    command: str
    passes: int
    machine: dict[str, str]
    versions: dict[str, str]
    figures: dict[str, float]
    samples: dict[str, list[float]]
    skipped: dict[str, str]
    notes: list[str]
    errors: list[str]


def build_document(samples: Samples, command: str, passes: int, machine: dict[str, str]) -> Document:
    """Return everything that was measured."""
    return Document(
        command=command,
        passes=passes,
        machine=machine,
        versions=describe_versions(),
        figures=samples.summarise(),
        samples=samples.values,
        skipped=samples.skipped,
        notes=samples.notes,
        errors=samples.errors,
    )


def build_line(row: Row, figures: Mapping[str, float]) -> Line | None:
    """Return a row with its figures; None when it was not measured."""
    ours = figures.get(row.key)
    if ours is None:
        return None
    peer_key = min((key for key in row.peers if key in figures), key=figures.__getitem__, default=None)
    peer = None if peer_key is None else figures[peer_key]
    named = OTHERS.get(row.budget or "", _NONE)
    return Line(
        row.what,
        write_number(ours),
        _NONE if row.budget is None else write_number(BUDGETS[row.budget].limit),
        _judge(row, ours, peer),
        f"{named} *" if peer_key is None and named != _NONE else _name_peer(peer_key, peer),
        _NONE if not peer else f"{ours / peer:.3f}",
    )


def render_text(document: Document) -> str:
    """Return the table for a terminal."""
    lines = [*_describe(document)]
    body = list(_list_lines(document.figures))
    widths = [
        max(len(cells[column]) for _, cells in [("", _HEADER), *body]) for column in range(len(_HEADER))
    ]
    section = ""
    lines.append(_align(_HEADER, widths))
    for name, cells in body:
        if name != section:
            section = name
            lines += ["", f"{name} ({UNITS[name]})"]
        lines.append(_align(cells, widths))
    return "\n".join([*lines, "", *_list_remarks(document)])


def render_markdown(document: Document) -> str:
    """Return the committed page: the same table, and what each peer took."""
    lines = ["# Benchmark", "", *(f"* {line}" for line in _describe(document)), ""]
    lines += [f"| {' | '.join(_HEADER)} |", "|---|---:|---:|---|---|---:|"]
    section = ""
    for name, cells in _list_lines(document.figures):
        if name != section:
            section = name
            lines.append(f"| **{name}** ({UNITS[name]}) | | | | | |")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"* {remark}" for remark in _list_remarks(document)), ""]
    lines += ["## Every peer", "", "ns of CPU a call, whole process.", "", "| case | ns |", "|---|---:|"]
    peers = sorted(key for key in document.figures if key.startswith(_PEERS) and key.endswith(".ns"))
    lines += [f"| `{key.removesuffix('.ns')}` | {write_number(document.figures[key])} |" for key in peers]
    return "\n".join([*lines, ""])


def _list_lines(figures: Mapping[str, float]) -> Iterator[tuple[str, Line]]:
    for section, rows in SECTIONS.items():
        for row in rows:
            line = build_line(row, figures)
            if line is not None:
                yield section, line


def _describe(document: Document) -> list[str]:
    machine = document.machine
    versions = ", ".join(f"{name} {version}" for name, version in document.versions.items())
    return [
        f"`{document.command}`, {machine['date']}, commit {machine['commit']}",
        f"medians of {document.passes} passes",
        f"{machine['cpu']}, {machine['kernel']}, {machine['python']}; load {machine['load']}",
        versions,
    ]


def _list_remarks(document: Document) -> list[str]:
    remarks = [f"not measured: {case}: {reason}" for case, reason in sorted(document.skipped.items())]
    remarks += [f"note: {note}" for note in document.notes]
    remarks += [f"ERROR: {error}" for error in document.errors]
    if any(line.peer.endswith("*") for _, line in _list_lines(document.figures)):
        remarks.append("with *: recorded elsewhere, not in this run, see bench/README.md")
    return remarks


def _judge(row: Row, ours: float, peer: float | None) -> str:
    if row.budget is None:
        return _NONE
    budget = BUDGETS[row.budget]
    met = ours <= budget.limit
    if budget.peer_ratio is not None and peer is not None:
        met = met and ours <= budget.peer_ratio * peer
    share = f" ({ours / budget.limit:.0%})" if budget.limit and ours >= 0.0 else ""
    return f"{'yes' if met else 'NO'}{share}"


def _name_peer(key: str | None, value: float | None) -> str:
    if key is None or value is None:
        return _NONE
    parts = key.split(".")
    name = parts[1] if parts[0] == "import" else ".".join(parts[:2])
    return f"{name} {write_number(value)}"


def write_number(value: float) -> str:
    """Write three significant digits: more are noise."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _align(cells: tuple[str, ...], widths: list[int]) -> str:
    left, right = {0, 3, 4}, zip(cells, widths, strict=True)
    return "  ".join(c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in enumerate(right)).rstrip()


__all__ = [
    "Document",
    "Line",
    "build_document",
    "build_line",
    "render_markdown",
    "render_text",
    "write_number",
]
