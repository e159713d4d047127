"""`docs/metrics.md` and the code name the same metrics, with the same words, and warn at the same ones."""

import re
from pathlib import Path

from msgspec.structs import fields

from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.serving import own_metrics
from tests.support.own_labels import collect_own_labels

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(
    r"^\| `(?P<name>metricsd_\w+)` \| (?P<kind>\w+) \| (?P<labels>[^|]*) \| (?P<meaning>.*) \|$", re.MULTILINE
)


def test_every_metric_is_documented_in_its_own_words_and_data_loss_is_called_so() -> None:
    documented = {
        row["name"]: (row["kind"], row["meaning"].replace("**", "")) for row in ROW.finditer(PAGE.read_text())
    }
    assert documented == {metric.name: (metric.kind.value, metric.help_text) for metric in own_metrics.ALL}


def test_the_labels_of_each_metric_are_those_that_the_daemon_gives_it() -> None:
    documented = {
        row["name"]: frozenset(re.findall(r"`(\w+)`", row["labels"]))
        for row in ROW.finditer(PAGE.read_text())
    }
    assert documented == collect_own_labels()


def test_every_column_of_the_ledgers_is_a_metric() -> None:
    assert set(own_metrics.INGEST) == set(Ledger.__slots__)
    columns = {field.name for field in fields(SinkLedger)}
    assert set(own_metrics.SINK) == columns - own_metrics.NO_METRIC


def test_the_alert_on_data_loss_sees_each_metric_that_means_it_and_no_other() -> None:
    found = re.search(r'__name__=~"([^"]+)"', PAGE.read_text())
    assert found is not None
    matched = {metric.name for metric in own_metrics.ALL if re.fullmatch(found[1], metric.name)}
    assert matched == {metric.name for metric in own_metrics.ALL if metric.data_loss}


def test_names_follow_the_rule() -> None:
    for metric in own_metrics.ALL:
        assert re.fullmatch(r"metricsd_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind.value == "counter")
        assert metric.data_loss == ("DATA LOSS" in metric.help_text)
