"""Figures of a run -> the table of the README: what a call costs, and in an application's other clients.

The README holds it between two marks; `python -m bench --write` writes it anew, from the run whose table goes
to `RESULTS.md`.
"""

from collections.abc import Iterator, Mapping

from bench.budgets import BUDGETS
from bench.report import Document, write_number

_BEGIN = "<!-- begin: python -m bench --write -->\n"
_END = "<!-- end -->"

_RECORD = "instrument.record(value)"
_PUT = "client.put(name, value, stream=…, shard_id=…)"

# Our call, the keys of its figures (the calling thread's own, and with the sender's), its budget, and what a
# service calls in its place today.
_CALLS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "`counter.record(value)`, a bound series",
        "producer.record_values",
        _RECORD,
        {
            "prometheus.inc_bound": "prometheus_client, bound `inc`",
            "spectator.increment_bound": "spectator-py, bound `increment`",
        },
    ),
    (
        "`histogram.record(value)`, a bound series",
        "producer.record_histogram",
        _RECORD,
        {
            "prometheus.observe": "prometheus_client, bound `observe`",
            "spectator.record_bound": "spectator-py, bound `record`",
            "datadog.histogram_buffered": "datadog, `histogram`, buffered",
            "opentelemetry.record": "OpenTelemetry SDK, `record`",
        },
    ),
    (
        "`metrics.put(name, value, stream=…, shard_id=…)`",
        "producer.put_dimensions",
        _PUT,
        {
            "datadog.increment_aggregated": "datadog, `increment`, aggregated",
            "prometheus.labels": "prometheus_client, `labels(…).inc`",
            "datadog.increment_buffered": "datadog, `increment`, buffered",
            "opentelemetry.add": "OpenTelemetry SDK, `add`",
            "aiokpl.put": "aiokpl's own `put`",
        },
    ),
)


def render_front_page(document: Document) -> str:
    """Return the table, and in one sentence what it was measured on."""
    machine = document.machine
    lines = ["| a call | ns of CPU | of it the caller's own | budget | ours / theirs |"]
    lines += ["|---|---:|---:|---:|---:|", *_list_lines(document.figures), ""]
    lines.append(
        f"{machine['cpu']}, {machine['kernel']}, {machine['python']}, {machine['date']}, "
        f"median of {document.passes}; the rest is in [bench/RESULTS.md](bench/RESULTS.md)."
    )
    return "\n".join([*lines, ""])


def replace_table(page: str, table: str) -> str:
    """Return the page with the table between its marks.

    Raises:
        ValueError: the page has not both marks.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no {_BEGIN.strip()} followed by {_END}")
    return f"{before}{begin}{table}{end}{after}"


def _list_lines(figures: Mapping[str, float]) -> Iterator[str]:
    for what, key, budget, peers in _CALLS:
        ours = figures.get(f"{key}.ns")
        if ours is None:
            continue
        own = figures.get(f"{key}.caller_ns")
        limit = write_number(BUDGETS[budget].limit)
        yield f"| **{what}** | **{write_number(ours)}** | {_write(own)} | {limit} | |"
        for peer, name in peers.items():
            theirs = figures.get(f"{peer}.ns")
            if theirs is not None:
                yield f"| {name} | {write_number(theirs)} | | | {ours / theirs:.2f} |"


def _write(value: float | None) -> str:
    return "" if value is None else write_number(value)


__all__ = ["render_front_page", "replace_table"]
