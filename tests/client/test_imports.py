"""The import brings nothing into the application but msgspec, and what it exports is what it names."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import aiokpl_metrics_client

ALLOWED = {"aiokpl_metrics_client", "aiokpl_metrics_protocol", "msgspec", "typing_extensions"}
REFUSED = {"asyncio", "dataclasses", "json", "logging", "select", "selectors", "socket", "ssl", "subprocess"}

CODE = """
import json, sys
before = set(sys.modules)
import msgspec
own = set(sys.modules)
{body}
print(json.dumps([sorted(own - before), sorted(set(sys.modules) - own)]))
"""


def _import(body: str) -> tuple[set[str], set[str]]:
    """Return the modules that msgspec loads, and those that `body` loads in addition."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(body=body)], capture_output=True, text=True, timeout=60, check=True
    )
    own, added = json.loads(done.stdout)
    return set(own), set(added)


def _third_party(modules: set[str]) -> set[str]:
    top = {name.split(".")[0] for name in modules}
    return {name for name in top if name not in sys.stdlib_module_names}


@pytest.mark.parametrize(
    "body",
    [
        "import aiokpl_metrics_client",
        "from aiokpl_metrics_client import *",
        "import aiokpl_metrics_client as c; c.MetricsClient(level=c.MetricsLevel.NONE).put('n')",
    ],
)
def test_a_fresh_interpreter_loads_no_third_party_module_but_msgspec(body: str) -> None:
    own, added = _import(body)
    assert _third_party(own | added) <= ALLOWED
    assert added & REFUSED == set()
    assert "aiokpl_metrics_client.testing" not in added


@pytest.mark.parametrize("use", ["client.close()", "client.put('n')"])
def test_a_client_loads_the_socket_when_it_is_made_and_nothing_of_asyncio_or_logging(use: str) -> None:
    own, added = _import(f"import aiokpl_metrics_client as c; client = c.MetricsClient('/nowhere'); {use}")
    assert _third_party(own | added) <= ALLOWED
    assert "socket" in added
    assert added & {"asyncio", "logging", "ssl"} == set()


def test_the_sink_does_not_import_aiokpl() -> None:
    own, added = _import("from aiokpl_metrics_client import MetricsdSink; MetricsdSink()")
    assert _third_party(own | added) <= ALLOWED


def test_the_kit_for_tests_needs_neither_pytest_nor_the_daemon_to_be_imported() -> None:
    own, added = _import("import aiokpl_metrics_client.testing")
    assert _third_party(own | added) <= ALLOWED


def _modules() -> Iterator[str]:
    yield "aiokpl_metrics_client"
    for module in pkgutil.walk_packages(aiokpl_metrics_client.__path__, "aiokpl_metrics_client."):
        yield module.name


@pytest.mark.parametrize("name", list(_modules()))
def test_a_module_has_a_docstring_and_defines_what_it_exports(name: str) -> None:
    if name == "aiokpl_metrics_client.testing.aggregating":
        pytest.importorskip("aiokpl_metricsd", reason="it is the daemon's aggregator")
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        assert hasattr(module, exported)


def test_the_reading_order_names_every_module() -> None:
    names = {module.name for module in pkgutil.iter_modules(aiokpl_metrics_client.__path__)}
    assert aiokpl_metrics_client.__doc__
    assert set(re.findall(r"`(\w+)`", aiokpl_metrics_client.__doc__)) == names


def test_the_package_exports_what_an_application_needs() -> None:
    assert set(aiokpl_metrics_client.__all__) == {
        "ClientStatistics",
        "Counter",
        "DropReason",
        "Gauge",
        "Histogram",
        "MetricsClient",
        "MetricsLevel",
        "MetricsdSink",
        "State",
        "Timer",
        "__version__",
    }
