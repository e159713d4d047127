"""What is left out of the image is missed by nobody: the sinks send as before, the records tell the truth.

The packages are those that the tests run with, linked into an environment that has nothing else.
"""

import base64
import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_client import MetricsClient
from deploy.image.build import compile_site, list_requirements
from deploy.image.prune import list_unneeded, prune, strip_symbols
from tests.support.admin import ask, open_admin
from tests.support.backends import ENVIRON, build_options, serve_backends
from tests.support.child import ROOT, Nursery
from tests.support.daemon import DaemonProcess
from tests.support.polling import wait_for

EVENTS = 100

CREDENTIALS = """
import asyncio
from aiobotocore.session import get_session
async def main():
    for service in ("cloudwatch", "sts", "sso", "sso-oidc", "signin"):
        async with get_session().create_client(service, region_name="eu-west-1"):
            print(service)
asyncio.run(main())
"""

EXTENSIONS = """
import sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
"""


class Environment(NamedTuple):
    """Where the packages are, what imports from there, and how much was left out."""

    site: Path
    interpreter: str
    before_bytes: int
    kept_bytes: int
    freed_bytes: int


@pytest.fixture(scope="module")
def pruned() -> Iterator[Environment]:
    """Prune links to the daemon, its extras and what they need."""
    # Beside the packages, since a link does not reach into another file system.
    with tempfile.TemporaryDirectory(prefix="pruned-", dir=Path(sys.prefix)) as directory:
        venv.create(directory, symlinks=True)
        (site,) = Path(directory).glob("lib/python3*/site-packages")
        for name in list_packages():
            link_distribution(name, site)
        for source in ("daemon/src/aiokpl_metricsd", "protocol/src/aiokpl_metrics_protocol"):
            # What other interpreters have compiled of ours is nobody's measure.
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, site / Path(source).name, ignore=ignored)
        before = measure_bytes(site)
        interpreter = str(Path(directory, "bin/python3"))
        freed = prune(site, interpreter)
        kept = measure_bytes(site)
        compile_site(site)
        yield Environment(site, interpreter, before, kept, freed)


def list_packages() -> list[str]:
    """Return what the image installs, as far as it is for this platform."""
    pinned: set[str] = set()
    for file in list_requirements("all"):
        for name, marker in re.findall(r"^([\w.-]+)==[^;\n]*?(; [^\\\n]*)?\\?$", read(file), re.MULTILINE):
            if "win32" not in marker and "python_full_version" not in marker:
                pinned.add(name)
    return sorted(pinned)


def read(file: Path) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def link_distribution(name: str, site: Path) -> None:
    """Link a distribution's files, but for the compiled ones and the scripts."""
    for file in distribution(name).files or ():
        if file.suffix != ".pyc" and ".." not in file.parts:
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file.locate(), target)


def measure_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def run(environment: Environment, *arguments: str) -> str:
    command = [environment.interpreter, "-I", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ENVIRON})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_most_is_left_out_and_counted(pruned: Environment) -> None:
    # The records became shorter as well, which is not counted.
    assert 0 <= pruned.before_bytes - pruned.kept_bytes - pruned.freed_bytes < 4_000_000
    assert pruned.kept_bytes < pruned.before_bytes / 2
    assert list(list_unneeded(pruned.site, pruned.interpreter)) == []


@pytest.mark.slow
def test_only_our_own_sources_stay_and_everything_is_compiled(pruned: Environment) -> None:
    sources = {path.relative_to(pruned.site).parts[0] for path in pruned.site.rglob("*.py")}
    assert sources == {"aiokpl_metricsd", "aiokpl_metrics_protocol"}
    for path in pruned.site.rglob("*.py"):
        assert list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")), path


@pytest.mark.slow
def test_every_backend_gets_its_windows_from_a_daemon_that_has_nothing_else(
    pruned: Environment, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="metricsd-") as directory, serve_backends() as backends:
        tables = [f"[sinks.{name}]\n{build_options(name, url)}" for name, url in backends.urls().items()]
        config = '[http]\nlisten = "127.0.0.1:0"\n[sinks.page]\ntype = "prometheus"\n' + "\n".join(tables)
        nursery = Nursery(Path(directory))
        command = (pruned.interpreter, "-P", "-m", "aiokpl_metricsd")
        try:
            daemon = DaemonProcess(nursery, config, command=command, environ=ENVIRON).wait_until_accepting()
            with MetricsClient(daemon.socket_path) as client:
                for value in range(EVENTS):
                    client.put("shop.latency", value, stream="orders")
            received = (
                lambda: backends.cloudwatch.accepted,
                lambda: backends.grpc.points,
                lambda: backends.http.points,
            )
            wait_for(lambda: all(read() for read in received), "a window in the backends")
            assert daemon.count_events() == EVENTS
            # Else the daemon would warn at its end that nobody has scraped it.
            with open_admin(daemon) as admin:
                status, page = ask(admin, "/metrics")
            assert (status, "shop_latency" in page) == (200, True)
            assert daemon.stop() == 0, daemon.stderr
        finally:
            nursery.end()
        assert set(daemon.ledger.sinks) == {"windows", "page", *backends.urls()}
        for name, sink in daemon.ledger.sinks.items():
            assert sink["delivered"] == sink["closed"] > 0, (name, daemon.log)
            assert sink["failures"] == 0, (name, daemon.log)
        assert (
            sum(datum["StatisticValues"]["SampleCount"] for datum in backends.cloudwatch.accepted) == EVENTS
        )
        assert backends.datadog.accepted
        assert not [line for line in daemon.log if line["level"] in {"warning", "error"}]


@pytest.mark.slow
def test_the_services_that_give_credentials_are_still_described(pruned: Environment) -> None:
    assert run(pruned, "-c", CREDENTIALS).split() == ["cloudwatch", "sts", "sso", "sso-oidc", "signin"]


@pytest.mark.slow
def test_a_command_and_its_errors_need_nothing_of_what_was_left_out(pruned: Environment) -> None:
    assert "--config" in run(pruned, "-m", "aiokpl_metricsd", "--help")
    command = [pruned.interpreter, "-I", "-m", "aiokpl_metricsd", "send", "name", "no-number"]
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "valid number" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_every_extension_module_is_loaded_without_its_symbols(pruned: Environment) -> None:
    libraries = sorted(pruned.site.rglob("*.so"))
    names = [".".join(path.relative_to(pruned.site).parts).partition(".cpython")[0] for path in libraries]
    names = [name.removesuffix(".abi3.so") for name in names]
    assert "uvloop.loop" in names
    # The parent first, as an extension may need it.
    run(pruned, "-c", EXTENSIONS, *(name for name in names if "md__mypyc" not in name))
    for path in libraries:
        assert strip_symbols(path.read_bytes()) == path.read_bytes()


@pytest.mark.slow
def test_metadata_stays_and_its_records_say_what_is_there(pruned: Environment) -> None:
    records = list(pruned.site.glob("*.dist-info/RECORD"))
    assert len(records) == len(list_packages())
    for record in records:
        assert (record.parent / "METADATA").is_file()
        with record.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert rows
        for name, digest, size in rows:
            content = (pruned.site / name).read_bytes()
            if digest:
                assert len(content) == int(size), name
                found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert digest == f"sha256={found}", name


@given(st.binary(max_size=300), st.booleans())
def test_what_is_no_library_stays_as_it_is(content: bytes, looks_like_one: bool) -> None:
    library = b"\x7fELF\x02\x01" + content if looks_like_one else content
    assert len(strip_symbols(library)) <= len(library)
    if not looks_like_one and not content.startswith(b"\x7fELF"):
        assert strip_symbols(library) == library
