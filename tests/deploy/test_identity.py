"""The variables of the manifests -> who each backend is told that the daemon is, to the last attribute."""

from pathlib import Path

import pytest

from aiokpl_metricsd.config import load
from aiokpl_metricsd.sinks.datadog import DatadogSink
from aiokpl_metricsd.sinks.otlp.settings import build_resource
from tests.deploy.pods import DIRECTORIES, DOWNWARD, KUBERNETES, find_sidecar, list_pods, resolve_environment

NAME, UID, NAMESPACE, NODE = DOWNWARD.values()

RESOURCE = {
    "service.name": "orders",
    "service.instance.id": UID,
    "k8s.pod.name": NAME,
    "k8s.pod.uid": UID,
    "k8s.namespace.name": NAMESPACE,
    "k8s.node.name": NODE,
}
TAGS = ("kube_namespace:shop", f"pod_name:{NAME}", "service:orders")

# Only where the backend learns it in no other way.
DIMENSIONS = {"base": {"namespace": NAMESPACE, "pod": NAME}}

by_directory = pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: path.name)


def list_environments(directory: Path) -> list[dict[str, str]]:
    return [resolve_environment(find_sidecar(pod)) for pod in list_pods(directory)]


@by_directory
def test_the_resource_of_opentelemetry_is_the_pod(directory: Path) -> None:
    for environ in list_environments(directory):
        assert build_resource(environ, None, "made up") == RESOURCE


def test_the_overlay_of_opentelemetry_gives_its_sink_no_resource_of_its_own() -> None:
    directory = KUBERNETES / "overlays" / "otel-collector"
    text = (directory / "sinks.toml").read_text(encoding="utf-8")
    assert "resource" not in text.partition("[sinks.otel]")[2]


@by_directory
def test_the_host_of_datadog_is_the_node_and_its_tags_are_the_pods(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for environ in list_environments(directory):
        with monkeypatch.context() as scope:
            for name, value in environ.items():
                scope.setenv(name, value)
            plan = DatadogSink(api_key="aa11")._find_plan()
            assert (plan.host, plan.tags) == (NODE, TAGS)


@by_directory
def test_dimensions_name_the_pod_where_nothing_else_does(directory: Path) -> None:
    for environ in list_environments(directory):
        configuration = load(str(directory / "sinks.toml"), environ)
        assert configuration.dimensions == DIMENSIONS.get(directory.name, {})
