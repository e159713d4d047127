"""The table says what was measured, and no more."""

import time

import pytest

from bench import export, journal, lanes
from bench.budgets import BUDGETS, OTHERS
from bench.daemon import LOADS
from bench.producer import CASES, DIFFERENCES
from bench.report import build_document, build_line, render_markdown, render_text
from bench.rows import SECTIONS, UNITS, Row
from bench.samples import Plan, Samples

RECORD = "instrument.record(value)"
MACHINE = {"cpu": "c", "kernel": "k", "python": "p", "date": "d", "commit": "x", "load": "0"}
ROWS = [row for rows in SECTIONS.values() for row in rows]


@pytest.mark.parametrize(
    ("ours", "peer", "met"),
    [
        (29.0, 300.0, "yes (97%)"),
        (31.0, 400.0, "NO (103%)"),
        # Within the limit, and yet more than a tenth of the best peer.
        (29.0, 200.0, "NO (97%)"),
    ],
)
def test_a_budget_is_met_by_limit_and_by_ratio(ours: float, peer: float, met: str) -> None:
    line = build_line(
        Row("record", "ours", RECORD, ("slow", "fast")), {"ours": ours, "slow": 9e9, "fast": peer}
    )
    assert line is not None
    assert line.met == met
    assert line.peer.startswith("fast ")


def test_a_row_that_was_not_measured_is_left_out() -> None:
    assert build_line(Row("record", "ours", RECORD), {}) is None


def test_a_budget_of_nothing_allows_nothing() -> None:
    row = Row("lost", "lost", "events lost while 100,000 series are flushed")
    lines = [build_line(row, {"lost": lost}) for lost in (0.0, 1.0)]
    assert [line.met for line in lines if line is not None] == ["yes", "NO"]


def test_every_budget_has_a_row_and_every_row_a_budget_that_exists() -> None:
    named = {row.budget for row in ROWS if row.budget is not None}
    assert named == set(BUDGETS)
    assert set(OTHERS) <= set(BUDGETS)
    assert set(SECTIONS) == set(UNITS)


def test_every_row_of_producer_daemon_and_export_names_a_case_that_is_measured() -> None:
    cases = {case for group in CASES.values() for case in group} | {f"daemon.{case}" for case in LOADS}
    cases |= {f"journal.{case}" for case in journal.LOADS} | set(DIFFERENCES)
    cases |= {key.rpartition(".")[0] for case in export.CASES for key in export.list_keys(case)}
    keys = {key for row in ROWS for key in (row.key, *row.peers)}
    measured = {
        key.rpartition(".")[0]
        for key in keys
        if not key.startswith(("import.", "startup.", "restart.", "stall.", "lanes.", "faults.", "loss."))
    }
    assert measured <= cases


def test_the_rows_of_lanes_are_what_is_measured_of_them() -> None:
    keys = {row.key for row in ROWS if row.key.startswith(lanes.PREFIX)}
    assert keys == {f"{lanes.PREFIX}{case}.{each}" for case in lanes.CASES for each in lanes.QUANTITIES}


def test_the_passes_have_the_time_that_is_left() -> None:
    begun = Plan(limit_s=600.0, started_s=time.monotonic() - 200.0).begin_passes()
    assert begun.limit_s == pytest.approx(400.0, abs=1.0)
    assert begun.has_time_for_pass(1)


def test_what_failed_and_what_was_skipped_stands_under_the_table() -> None:
    samples = Samples(skipped={"statsd.incr": "not installed"}, errors=["wrong totals"])
    for value in (3.0, 1.0, 2.0):
        samples.add("producer.put.ns", value)
    document = build_document(samples, "python -m bench", 3, MACHINE)
    assert document.figures == {"producer.put.ns": 2.0}
    for text in (render_text(document), render_markdown(document)):
        assert "put(name, value)" in text
        assert "statsd.incr: not installed" in text
        assert "ERROR: wrong totals" in text


def test_a_pattern_is_part_of_a_key_or_a_glob() -> None:
    plan = Plan(patterns=("daemon.", "*.put.ns"))
    assert plan.wants("daemon.rows_ones_1.cpu_s_per_million")
    assert plan.wants("producer.put.ns")
    assert not plan.wants("producer.put_extra.ns")


def test_a_further_pass_begins_only_where_it_can_end_in_time() -> None:
    assert Plan(limit_s=0.0).has_time_for_pass(0)
    assert not Plan(limit_s=0.0).has_time_for_pass(1)
    assert Plan(limit_s=600.0).has_time_for_pass(1)
