"""The tables of `docs/fleet.md` are what its script computes, from what the sinks really send."""

import re
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.sinks.cloudwatch.cost import price_metrics
from docs import fleet_cost

ROOT = Path(__file__).parents[2]


def read_rows(name: str) -> list[list[str]]:
    """Return the cells of a table of the page."""
    page = (ROOT / fleet_cost.PAGE).read_text()
    table = page.partition(f"<!-- begin {name} -->")[2].partition(f"<!-- end {name} -->")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return rows[1:]


def read_number(cell: str) -> float:
    return float(cell.replace(",", ""))


def test_the_page_has_what_the_script_computes() -> None:
    page = (ROOT / fleet_cost.PAGE).read_text()
    assert fleet_cost.fill_page(page, fleet_cost.render_tables()) == page, "run `make docs`"


def test_a_page_that_is_behind_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet_cost, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    page = (ROOT / fleet_cost.PAGE).read_text()
    (tmp_path / fleet_cost.PAGE).write_text(
        page.replace("| CloudWatch | no | 101 |", "| CloudWatch | no | 99 |")
    )
    assert fleet_cost.main(["--check"]) == 1
    assert "run `make docs`" in capsys.readouterr().out
    assert fleet_cost.main([]) == 0
    assert (tmp_path / fleet_cost.PAGE).read_text() == page
    assert fleet_cost.main(["--check"]) == 0
    with pytest.raises(SystemExit, match="begin cost"):
        fleet_cost.fill_page(page.replace("<!-- begin cost -->", ""), {"cost": ""})


def test_the_workload_is_the_one_that_the_page_states() -> None:
    window = fleet_cost.build_window()
    kinds = [snapshot.kind for snapshot in window]
    shards = fleet_cost.SHARDS
    assert (shards, fleet_cost.EVENTS, fleet_cost.INTERVAL_S) == (10, 600, 60)
    assert kinds.count(MetricKind.COUNTER) == 7 * shards
    assert kinds.count(MetricKind.HISTOGRAM) == 3 * shards
    assert kinds.count(MetricKind.GAUGE) == 1
    assert {snapshot.window_end - snapshot.window_start for snapshot in window} == {60.0}
    assert len({(snapshot.name, snapshot.dimensions) for snapshot in window}) == len(window)
    text = re.sub(r"\s+", " ", (ROOT / fleet_cost.PAGE).read_text())
    assert "six counters, one count of errors with its code, and three histograms of 600 values" in text


def test_the_costs_follow_from_what_a_sidecar_sends() -> None:
    sent = {(to, word): [read_number(cell) for cell in cells] for to, word, *cells in read_rows("sent")}
    for to, word, fleet, rate, _, metrics, usd in read_rows("cost"):
        sidecars = read_number(fleet)
        series, requests, _, counted = sent[to, word]
        period_s = 30.0 if to == "Prometheus" else 60.0
        assert read_number(rate) == pytest.approx(sidecars * requests / period_s, rel=0.06)
        shared = word == "yes" and to in {"CloudWatch", "OTLP gateway"}
        assert read_number(metrics) == counted * (1 if shared else sidecars)
        if to == "CloudWatch":
            monthly = sidecars * requests * 730 * 60 * 0.01 / 1_000
            expected = price_metrics(int(read_number(metrics))) + monthly
            assert read_number(usd) == pytest.approx(expected, abs=1.0)
        elif to == "Datadog":
            assert read_number(usd) == pytest.approx(read_number(metrics) * 0.05, abs=1.0)
        else:
            assert usd == "none"
        assert series == (11.0 if word == "yes" else 101.0)
