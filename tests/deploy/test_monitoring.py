"""Alerts and panels name metrics that exist, and every metric that means data loss has an alert."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiokpl_metrics_client.instruments import merge_dimensions
from aiokpl_metrics_protocol import CATALOG, MetricKind
from aiokpl_metrics_protocol.catalog import NAME_ERRORS_BY_CODE
from aiokpl_metricsd.serving import own_metrics
from tests.deploy.promql import list_groupings, list_labels, list_metrics, list_variables
from tests.support.own_labels import collect_own_labels

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "alerts" / "aiokpl-metricsd.rules.yaml"
RULES_TEST = Path(__file__).with_name("aiokpl-metricsd.rules.test.yaml")
DASHBOARD = DEPLOY / "grafana" / "aiokpl-metricsd.json"

OWN = {metric.name for metric in own_metrics.ALL}

# What the sink `prometheus` makes of each kind.
SUFFIXES = {
    MetricKind.COUNTER: ("_total",),
    MetricKind.GAUGE: ("",),
    MetricKind.HISTOGRAM: ("_bucket", "_sum", "_count"),
}
OF_KPL = {
    name: {name + suffix for suffix in SUFFIXES[description.kind]} for name, description in CATALOG.items()
}

# What the client makes dimensions of; the KPL gives a code with one metric alone.
CODE = "error_code"
DIMENSIONS = frozenset(merge_dimensions("a", "b", "c", {})) - {CODE}
LABELS = {
    **collect_own_labels(),
    **{
        made: DIMENSIONS
        | ({CODE} if name == NAME_ERRORS_BY_CODE else set())
        | ({"le"} if made.endswith("_bucket") else set())
        for name, makes in OF_KPL.items()
        for made in makes
    },
}
# What Prometheus adds to what it scrapes, with the PodMonitor of deploy/kubernetes/overlays/prometheus.
OF_TARGET = frozenset({"namespace", "pod", "container", "job", "instance"})

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: make integration installs it"
)


def list_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def load_dashboard() -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return dashboard


def list_queries() -> Iterator[tuple[str, str]]:
    """Yield title and expression of each query of the dashboard."""
    for panel in load_dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def split_definition(definition: str) -> tuple[str, str]:
    """Return the expression and the label of a variable's `label_values(expression, label)`."""
    expression, _, label = definition.removeprefix("label_values(").removesuffix(")").rpartition(", ")
    return expression, label


def read_source(panel: dict[str, Any]) -> str:
    """Return where a panel takes its data from; of a row, nothing."""
    return str(panel.get("datasource", {}).get("uid", ""))


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('sum by (pod) (rate(a_total{pod=~"b"}[5m])) / sum(c_count)', {"a_total", "c_count"}),
        ("time() - max by (x) (y > 0) unless z offset 10m", {"y", "z"}),
        ("a > 0 and on (b, c) d", {"a", "d"}),
        ("histogram_quantile(0.9, sum by (le) (rate(h_bucket[$__rate_interval])))", {"h_bucket"}),
    ],
)
def test_the_names_of_metrics_are_found(expression: str, expected: set[str]) -> None:
    assert list_metrics(expression) == expected


@pytest.mark.parametrize("rule", list_rules(), ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_metrics_of_the_daemon(rule: dict[str, Any]) -> None:
    named = list_metrics(rule["expr"])
    assert named
    assert named <= OWN
    assert set(rule["annotations"]) == {"summary", "description"}


def test_every_metric_that_means_data_loss_has_a_critical_alert_and_no_other_has_one() -> None:
    alerted = {
        name
        for rule in list_rules()
        if rule["labels"]["severity"] == "critical"
        for name in list_metrics(rule["expr"])
    }
    assert alerted == {metric.name for metric in own_metrics.ALL if metric.data_loss}


def test_alerts_have_a_name_each() -> None:
    names = [rule["alert"] for rule in list_rules()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("title", "expression"), list(list_queries()))
def test_every_query_of_the_dashboard_names_metrics_that_exist(title: str, expression: str) -> None:
    named = list_metrics(expression)
    assert named, title
    assert named <= OWN.union(*OF_KPL.values())


def test_every_metric_of_the_kpl_and_every_loss_is_on_the_dashboard() -> None:
    shown: set[str] = set()
    for _, expression in list_queries():
        shown |= list_metrics(expression)
    assert [name for name, made in OF_KPL.items() if not made & shown] == []
    assert {metric.name for metric in own_metrics.ALL if metric.data_loss} <= shown


def test_panels_of_the_dashboard_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = load_dashboard()["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(numbers) == len(set(numbers))
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & own, panel["title"]
        cells |= own


def test_the_variables_that_queries_use_are_those_that_are_defined() -> None:
    variables = load_dashboard()["templating"]["list"]
    defined = {variable["name"] for variable in variables}
    used: set[str] = set()
    for _, expression in list_queries():
        used |= list_variables(expression)
    used |= {name for variable in variables for name in list_variables(variable.get("definition", ""))}
    assert used <= defined
    sources = {name for panel in load_dashboard()["panels"] for name in list_variables(read_source(panel))}
    assert used | sources == defined
    for variable in variables:
        assert variable["type"] == "datasource" or variable["definition"] == variable["query"]["query"]
        asked = split_definition(variable.get("definition", ""))[0]
        assert list_metrics(asked) <= OWN.union(*OF_KPL.values())


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (
            'sum by (pod) (rate(a_total{x=~"}, y=", z!="b"}[5m])) / sum(c_count)',
            {("a_total", "pod"), ("a_total", "x"), ("a_total", "z")},
        ),
        (
            "a > 0 and on (b) max by (c, d) (e) - f",
            {("a", "b"), ("e", "b"), ("f", "b"), ("e", "c"), ("e", "d")},
        ),
        ("sum without (b) (a)", {("a", "b")}),
    ],
)
def test_the_labels_that_are_asked_for_are_found(expression: str, expected: set[tuple[str, str]]) -> None:
    assert set(list_labels(expression)) == expected


def list_expressions() -> Iterator[tuple[str, str]]:
    """Yield title and expression of every alert, query and variable; of the last, with its label."""
    yield from ((rule["alert"], rule["expr"]) for rule in list_rules())
    yield from list_queries()
    for variable in load_dashboard()["templating"]["list"]:
        asked, label = split_definition(variable.get("definition", ""))
        if label:
            yield variable["name"], f"max by ({label}) ({asked})"


@pytest.mark.parametrize(("title", "expression"), list(list_expressions()))
def test_every_label_that_is_asked_for_is_one_of_the_metrics(title: str, expression: str) -> None:
    unknown = {
        (metric, label)
        for metric, label in list_labels(expression)
        if label not in LABELS[metric] | OF_TARGET
    }
    assert unknown == set(), title


def test_legends_and_annotations_name_labels_that_are_left_in_the_result() -> None:
    for panel in load_dashboard()["panels"]:
        for target in panel.get("targets", ()):
            (*_, first) = reversed(list_groupings(target["expr"]))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == first - {"le"}, panel["title"]
    for rule in list_rules():
        groupings = list_groupings(rule["expr"])
        every = [LABELS[metric] | OF_TARGET for metric in list_metrics(rule["expr"])]
        left = groupings[0] if groupings else frozenset[str]().union(*every)
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= left, rule["alert"]


@needs_promtool
def test_prometheus_takes_the_alerts() -> None:
    promtool("check", "rules", RULES)


@needs_promtool
def test_the_alerts_fire_when_something_is_lost_and_not_otherwise(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    shutil.copy(RULES_TEST, tmp_path)
    promtool("test", "rules", tmp_path / RULES_TEST.name)


def test_every_alert_is_seen_to_fire() -> None:
    fired = {
        case["alertname"]
        for group in yaml.safe_load(RULES_TEST.read_text(encoding="utf-8"))["tests"]
        for case in group["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in list_rules()}


@needs_promtool
def test_prometheus_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"query:{number}",
            "expr": expression.replace("$__rate_interval", "5m").replace("$__range", "3h"),
        }
        for number, (_, expression) in enumerate(list_queries())
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", path)
