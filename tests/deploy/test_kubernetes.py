"""The manifests are valid, restricted, and say of the daemon what is true of it."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it ships no types
import pytest
import yaml

from aiokpl_metrics_protocol import socket_candidates
from aiokpl_metrics_protocol.location import ENVIRONMENT_VARIABLE
from aiokpl_metricsd.config import Configuration, load
from aiokpl_metricsd.storing import database
from aiokpl_metricsd.storing.ballast import BALLAST_BYTES
from tests.deploy.kustomize import build
from tests.deploy.pod_security import find_problems
from tests.deploy.pods import (
    DIRECTORIES,
    KUBERNETES,
    find_sidecar,
    list_pods,
    list_workloads,
    resolve_environment,
)
from tests.support.child import ROOT, build_environment

RESULTS = ROOT / "bench" / "RESULTS.md"
# The oldest that has sidecars, the oldest on which they are stable, and the newest that the schemas know.
VERSIONS = ["1.29", "1.33", "1.37"]

# What SQLite keeps beside what the outbox is bounded by: free pages, the write-ahead log, which a transaction
# may double, and ballast.
DATABASE_BYTES = database.KEPT_FREE_BYTES + 2 * database.WAL_BYTES
SLACK_BYTES = DATABASE_BYTES + BALLAST_BYTES

# What state_dir adds to a daemon's memory, and what an exporter's first request may.
STATE_MIB = 5

# The rows of bench/RESULTS.md by the directory whose sinks they measure.
MEASURED = {
    "base": "console, JSON",
    "cloudwatch": "cloudwatch",
    "datadog": "datadog",
    "otel-collector": "opentelemetry, gRPC",
    "prometheus": "prometheus",
}
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}

by_directory = pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: path.name)


def read_bytes(quantity: str) -> int:
    found = re.fullmatch(r"(\d+)(Mi|Gi)", quantity)
    assert found is not None, quantity
    return int(found[1]) * UNITS[found[2]]


def read_configuration(directory: Path) -> Configuration:
    """Return the configuration, with the environment that the first pod's sidecar has."""
    return load(str(directory / "sinks.toml"), resolve_environment(find_sidecar(list_pods(directory)[0])))


@by_directory
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_by_the_schemas_of_kubernetes(directory: Path, version: str) -> None:
    for manifest in build(directory):
        if manifest["kind"] != "PodMonitor":
            # It raises where a field is unknown, of another type, or missing.
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_do_find_what_is_wrong() -> None:
    (manifest,) = [each for each in build(KUBERNETES / "base") if each["kind"] == "Job"]
    find_sidecar(manifest["spec"]["template"]["spec"])
    manifest["spec"]["template"]["spec"]["initContainers"][0]["restartPolicyy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


@by_directory
def test_every_pod_is_restricted_and_every_word_is_a_value(directory: Path) -> None:
    # It refuses a kind that it does not know.
    assert [problem for each in build(directory) for problem in find_problems(each)] == []
    assert [each["kind"] for each in list_workloads(directory)] == ["Deployment", "Job"]


@by_directory
def test_the_sidecar_is_native_and_started_when_its_socket_takes_connections(directory: Path) -> None:
    for pod in list_pods(directory):
        sidecar = find_sidecar(pod)
        assert sidecar["restartPolicy"] == "Always"
        assert "startupProbe" in sidecar
        # One would take the pod out of service, and a hook would run before the service has ended.
        assert not {"readinessProbe", "livenessProbe", "lifecycle"} & set(sidecar)


def test_a_job_has_nothing_else_that_would_keep_it_from_ending() -> None:
    (job,) = [each for each in list_workloads(KUBERNETES / "base") if each["kind"] == "Job"]
    pod = job["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["orders"]
    assert pod["restartPolicy"] == "Never"


def test_the_startup_probe_succeeds_when_the_socket_takes_connections_and_not_before(tmp_path: Path) -> None:
    command = find_sidecar(list_pods(KUBERNETES / "base")[0])["startupProbe"]["exec"]["command"]
    assert command[0] == "python3"
    # The socket's path has at most 107 bytes.
    path = tmp_path / "s" if len(str(tmp_path)) < 100 else Path("/tmp") / tmp_path.name
    path.unlink(missing_ok=True)
    # The probe's own is the first of `socket_candidates`, which `tests/daemon/test_healthcheck.py` asserts.
    arguments = [*command[1:], str(path)]

    def probe() -> int:
        return subprocess.run([sys.executable, *arguments], stderr=subprocess.DEVNULL, check=False).returncode

    assert probe() == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(path))
        assert probe() == 0
    # As a killed daemon leaves it.
    assert probe() == 1
    path.unlink()


@by_directory
def test_service_and_sidecar_share_the_sockets_directory_and_nothing_else(directory: Path) -> None:
    place = str(Path(socket_candidates({})[0]).parent)
    for pod in list_pods(directory):
        sidecar, (service,) = find_sidecar(pod), pod["containers"]
        (shared,) = service["volumeMounts"]
        assert (shared["mountPath"], shared["readOnly"]) == (place, True)
        assert shared["name"] in [each["name"] for each in sidecar["volumeMounts"]]
        (volume,) = [each for each in pod["volumes"] if each["name"] == shared["name"]]
        assert volume["emptyDir"]["medium"] == "Memory"
        assert pod["securityContext"]["fsGroup"] > 0
        users = {each["securityContext"]["runAsUser"] for each in (sidecar, service)}
        assert len(users) == 2


@by_directory
def test_the_state_directory_is_on_disk_and_larger_than_the_daemon_lets_it_become(directory: Path) -> None:
    configuration = read_configuration(directory)
    assert configuration.state_dir is not None
    needed = (
        2 * (configuration.outbox_max_bytes + configuration.journal_max_bytes)
        + SLACK_BYTES
        # What is set aside has a write-ahead log and free pages, too.
        + database.KEPT_FREE_BYTES
        + database.WAL_BYTES
    )
    for pod in list_pods(directory):
        mounts = {each["mountPath"]: each["name"] for each in find_sidecar(pod)["volumeMounts"]}
        # A directory within the volume, since the volume's own is the group's.
        name = mounts[str(Path(configuration.state_dir).parent)]
        (volume,) = [each for each in pod["volumes"] if each["name"] == name]
        assert set(volume["emptyDir"]) == {"sizeLimit"}
        assert read_bytes(volume["emptyDir"]["sizeLimit"]) > needed


@by_directory
def test_the_configuration_is_one_and_its_socket_is_where_it_is_mounted(directory: Path) -> None:
    configuration = read_configuration(directory)
    assert configuration.ingest.socket == socket_candidates({})[0]
    (manifest,) = [each for each in build(directory) if each["kind"] == "ConfigMap"]
    assert set(manifest["data"]) == {"sinks.toml"}


@by_directory
def test_the_command_check_finds_nothing_wrong_with_the_configuration_in_the_sidecars_environment(
    directory: Path,
) -> None:
    environ = resolve_environment(find_sidecar(list_pods(directory)[0]))
    # What EKS adds in a pod whose service account has a role.
    environ |= {"AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/orders-metrics"}
    environ |= {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"}
    command = [sys.executable, "-m", "aiokpl_metricsd", "check", "--config", str(directory / "sinks.toml")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=build_environment(environ)
    )
    assert (done.returncode, done.stderr) == (0, "")
    (name,) = read_configuration(directory).sinks
    assert f"sinks: {name} (" in done.stdout


@by_directory
def test_the_service_is_told_where_the_socket_is(directory: Path) -> None:
    for pod in list_pods(directory):
        (service,) = pod["containers"]
        (told,) = [each for each in service["env"] if each["name"] == ENVIRONMENT_VARIABLE]
        assert told["value"] == read_configuration(directory).ingest.socket


@by_directory
def test_the_grace_period_is_longer_than_that_of_the_last_exports(directory: Path) -> None:
    for pod in list_pods(directory):
        assert (
            pod["terminationGracePeriodSeconds"] >= 20 + 2 * read_configuration(directory).shutdown_timeout_s
        )


@by_directory
def test_memory_is_requested_and_bounded_and_no_image_names_a_registry(directory: Path) -> None:
    for pod in list_pods(directory):
        for container in (*pod["initContainers"], *pod["containers"]):
            resources = container["resources"]
            assert read_bytes(resources["requests"]["memory"]) < read_bytes(resources["limits"]["memory"])
            assert "cpu" not in resources["limits"]
            assert re.fullmatch(r"[a-z-]+:\d+\.\d+\.\d+", container["image"])


def read_figure(what: str, below: str = "") -> float:
    """Return a figure of bench/RESULTS.md: of a row, or of the next row `below` that one."""
    lines = [line.removeprefix("| ").split(" | ") for line in RESULTS.read_text("utf-8").splitlines()]
    after = iter(lines)
    next(line for line in after if line[0] == what)
    figure = next(line for line in (after if below else lines) if line[0] == (below or what))[1]
    return float(figure)


@by_directory
def test_the_memory_that_is_requested_and_that_is_allowed_match_what_was_measured(directory: Path) -> None:
    idle = read_figure(f"{MEASURED[directory.name]}: memory, idle") + STATE_MIB
    sdk = idle - read_figure("console, JSON: memory, idle")
    # Of what there may be many of, histograms take the most.
    highest = read_figure("100,000 series, histograms", "  highest, with its close and export") + sdk
    for pod in list_pods(directory):
        resources = find_sidecar(pod)["resources"]
        assert idle <= read_bytes(resources["requests"]["memory"]) / UNITS["Mi"] <= 2 * idle
        assert highest <= read_bytes(resources["limits"]["memory"]) / UNITS["Mi"] <= 2 * highest


@by_directory
def test_the_cpu_that_is_requested_is_what_was_measured_idle_and_with_the_events_that_are_named(
    directory: Path,
) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    pattern = r"idle daemon takes (\d\.\d) ms of CPU.*?([\d,]+) events a second add (\d\.\d) ms"
    stated = re.search(pattern, page, re.DOTALL)
    assert stated is not None
    idle_ms, events, added_ms = (float(figure.replace(",", "")) for figure in stated.groups())
    # Seconds for a million are microseconds for one.
    measured_us = read_figure("four events a series and frame, counters")
    # Runs of the benchmark differ.
    assert added_ms == pytest.approx(events * measured_us / 1000, rel=0.25)
    for pod in list_pods(directory):
        found = re.fullmatch(r"(\d+)m", find_sidecar(pod)["resources"]["requests"]["cpu"])
        assert found is not None
        assert idle_ms + added_ms <= int(found[1]) <= 2 * (idle_ms + added_ms)


def test_the_pod_monitor_selects_the_pods_and_names_a_port_that_is_listened_on() -> None:
    directory = KUBERNETES / "overlays" / "prometheus"
    (monitor,) = [each for each in build(directory) if each["kind"] == "PodMonitor"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) == {"port", "path", "scheme", "interval", "scrapeTimeout"}
    assert (endpoint["path"], endpoint["scheme"]) == ("/metrics", "http")
    listen = read_configuration(directory).http.listen
    assert listen is not None
    for each in list_workloads(directory):
        template = each["spec"]["template"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        (port,) = find_sidecar(template["spec"])["ports"]
        assert (port["name"], str(port["containerPort"])) == (endpoint["port"], listen.rpartition(":")[2])


def strip_hashes(node: object) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Return manifests without the hash that kubectl puts after the name of a generated ConfigMap."""
    text = yaml.safe_dump(node)
    return yaml.safe_load(re.sub(r"\bmetricsd-[a-z0-9]{10}$", "metricsd", text, flags=re.MULTILINE))


def sort_manifests(manifests: list[Any]) -> list[Any]:
    return sorted(manifests, key=lambda each: (each["kind"], each["metadata"]["name"]))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@by_directory
def test_kubectl_makes_the_same_manifests(directory: Path) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(directory)], capture_output=True, text=True, timeout=60, check=True
    )
    made = [strip_hashes(each) for each in yaml.safe_load_all(done.stdout)]
    assert sort_manifests(made) == sort_manifests(build(directory))
