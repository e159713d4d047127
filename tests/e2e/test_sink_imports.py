"""What a backend needs is imported when its sink is configured, after the socket is there, and only then."""

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support import gate
from tests.support.backends import ENVIRON, NAMES, build_options
from tests.support.child import ROOT, Nursery, add_import_path
from tests.support.daemon import DaemonProcess, can_connect, send_datagram
from tests.support.gate import Gate
from tests.support.halting import halt_import, miss_import
from tests.support.polling import wait_for
from tests.support.rows import check_balance

FRAME = encode(EventsFrame([MetricEvent("orders", 1.0, 0.0)]))

# What comes with one sink or another, and never with the daemon itself.
FOREIGN = frozenset(
    {
        "aiobotocore",
        "aiohttp",
        "aiokpl_metricsd.sinks.cloudwatch.sink",
        "aiokpl_metricsd.sinks.datadog.sink",
        "aiokpl_metricsd.sinks.opentelemetry",
        "aiokpl_metricsd.sinks.otlp.sink",
        "aiokpl_metricsd.sinks.prometheus.sink",
        "botocore",
        "datadog_api_client",
        "google.protobuf",
        "grpc",
        "opentelemetry",
        "opentelemetry.sdk",
        "prometheus_client",
        "requests",
        "urllib3",
    }
)

OTLP = {"aiokpl_metricsd.sinks.otlp.sink", "google.protobuf", "opentelemetry", "opentelemetry.sdk"}

NEEDED: dict[str, set[str]] = {
    "jsonl": set(),
    "prometheus": {"aiokpl_metricsd.sinks.prometheus.sink"},
    "cloudwatch": {"aiokpl_metricsd.sinks.cloudwatch.sink", "aiobotocore", "aiohttp", "botocore", "urllib3"},
    "grpc": {*OTLP, "grpc"},
    "http": OTLP,
    "datadog": {"aiokpl_metricsd.sinks.datadog.sink", "datadog_api_client", "urllib3"},
}

# Who needs which package, and the extra that brings it.
EXTRAS = [
    ("cloudwatch", "aiobotocore", "cloudwatch"),
    ("grpc", "grpc", "otel"),
    ("http", "opentelemetry", "otel"),
    ("datadog", "datadog_api_client", "datadog"),
]


def start(
    nursery: Nursery, kind: str, nobody: Gate, environ: dict[str, str], extra: str = ""
) -> DaemonProcess:
    """Start a daemon with a sink of this kind, which reaches nobody."""
    url = f"http://127.0.0.1:{nobody.port}"
    options = build_options(kind, url) if kind in NAMES else f'type = "{kind}"\n'
    return DaemonProcess(
        nursery,
        f"[sinks.tested]\n{options}{extra}",
        top="shutdown_timeout_s = 1",
        grace_s=0,
        environ={**ENVIRON, **environ},
    )


@pytest.mark.parametrize("kind", NEEDED)
def test_only_what_the_configured_sink_needs_is_loaded(nursery: Nursery, kind: str) -> None:
    path = nursery.directory / "modules"
    extra = f'path = "{nursery.directory}/other.jsonl"\n' if kind == "jsonl" else ""
    witness = f'[sinks.witness]\ntype = "tests.support.acme_sinks:Witness"\npath = "{path}"\n'
    with Gate(0, gate.REFUSE) as nobody:
        daemon = start(nursery, kind, nobody, add_import_path(ROOT), f"{extra}{witness}")
        daemon.wait_until_accepting()
        send_datagram(daemon.socket_path, FRAME)
        # By the end of the first attempt everything is loaded that ever is.
        wait_for(lambda: daemon.find_log("export failed") or kind not in NAMES, "an attempt")
        wait_for(path.exists, "the witness")
        assert daemon.stop() == 0
    loaded = set(path.read_text(encoding="utf-8").split())
    assert loaded & FOREIGN == NEEDED[kind]


@pytest.mark.parametrize(("kind", "package", "extra"), EXTRAS)
def test_while_a_backends_package_is_imported_the_socket_is_there_and_windows_arrive(
    nursery: Nursery, kind: str, package: str, extra: str
) -> None:
    marker = nursery.directory / "marker"
    with Gate(0, gate.REFUSE) as nobody:
        daemon = start(nursery, kind, nobody, halt_import(package, marker))
        wait_for(marker.exists, f"the import of {package}")
        assert can_connect(daemon.socket_path)
        send_datagram(daemon.socket_path, FRAME)
        wait_for(daemon.rows, "a window in the other sink")
        assert marker.exists()
        marker.unlink()
        assert daemon.stop() == 0
        check_balance(daemon.ledger)


@pytest.mark.parametrize(("kind", "package", "extra"), EXTRAS)
def test_check_names_the_extra_that_brings_a_missing_package(
    nursery: Nursery, kind: str, package: str, extra: str
) -> None:
    config = nursery.directory / "check.toml"
    config.write_text(f"[sinks.tested]\n{build_options(kind, 'http://127.0.0.1:9')}", encoding="utf-8")
    environ = {**ENVIRON, **miss_import(package)}
    child = nursery.start_python("-m", "aiokpl_metricsd", "check", "--config", str(config), environ=environ)
    assert child.wait() == 2
    (line,) = child.stderr.splitlines()
    assert line.startswith(f"{config}: [sinks.tested]")
    assert package in line
    assert line.endswith(f"pip install 'aiokpl-metricsd[{extra}]'")


@pytest.mark.parametrize(("kind", "package", "extra"), EXTRAS)
def test_a_daemon_without_a_sinks_package_says_which_extra_to_install_and_serves_the_others(
    nursery: Nursery, kind: str, package: str, extra: str
) -> None:
    with Gate(0, gate.REFUSE) as nobody:
        daemon = start(nursery, kind, nobody, miss_import(package)).wait_until_listening()
        (line,) = wait_for(lambda: daemon.find_log("entering the sink failed"), "the log")
        assert line["sink"] == "tested"
        assert line["error"].endswith(f"pip install 'aiokpl-metricsd[{extra}]'")
        send_datagram(daemon.socket_path, FRAME)
        wait_for(daemon.rows, "a window in the other sink")
        assert daemon.stop() == 0
    check_balance(daemon.ledger)
    assert daemon.ledger.sinks["tested"]["dropped_by_reason"] == {"shutdown": 1}
    assert daemon.ledger.sinks["windows"]["delivered"] == 1
