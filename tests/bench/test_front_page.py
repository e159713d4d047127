"""The README's table is that of the run, and names only what is measured."""

import pytest

from bench import front_page
from bench.front_page import render_front_page, replace_table
from bench.process import ROOT
from bench.producer import CASES
from bench.report import build_document
from bench.samples import Samples

MACHINE = {"cpu": "a CPU", "kernel": "k", "python": "p", "date": "today", "commit": "x", "load": "0"}


def render(**figures: float) -> str:
    samples = Samples()
    for key, value in figures.items():
        samples.add(key.replace("__", "."), value)
    return render_front_page(build_document(samples, "bench", 3, MACHINE))


def test_a_call_stands_above_what_a_service_calls_in_its_place() -> None:
    table = render(
        producer__record_values__ns=40.0,
        producer__record_values__caller_ns=29.5,
        prometheus__inc_bound__ns=400.0,
    )
    assert "| **`counter.record(value)`, a bound series** | **40** | 29.5 | 30 | |\n" in table
    assert "| prometheus_client, bound `inc` | 400 | | | 0.10 |\n" in table
    assert "spectator" not in table
    assert "a CPU, k, p, today, median of 3;" in table


def test_a_call_that_was_not_measured_has_no_line() -> None:
    assert "prometheus" not in render(prometheus__inc_bound__ns=400.0)


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = f"above\n{front_page._BEGIN}old\n{front_page._END}\nbelow\n"
    assert replace_table(page, "new\n") == f"above\n{front_page._BEGIN}new\n{front_page._END}\nbelow\n"
    with pytest.raises(ValueError, match="the page has no <!-- begin"):
        replace_table("above\nbelow\n", "new\n")


def test_the_readme_has_the_marks() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\nnew\n<!-- end -->" in replace_table(page, "new\n")


def test_every_figure_of_the_table_is_measured() -> None:
    cases = {case for group in CASES.values() for case in group}
    for _, key, _, peers in front_page._CALLS:
        assert {key, *peers} <= cases
