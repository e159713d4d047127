"""The image, really built, without a Docker engine; and the daemon from it, as process 1 of a container.

`make image` installs what it needs, and runs it. The base is debootstrap's, in place of a registry's.
"""

import os
import re
import signal
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aiokpl_metricsd import __version__
from deploy.image.__main__ import ROOT, STORE, build_image, produce, read_revision, run_daemon
from deploy.image.base import BASE_IMAGE, make_base
from deploy.image.build import EXTRAS
from deploy.image.container import Container, Shared, can_connect
from deploy.image.engine import Engine, Image, find_missing_tools, read_pip_settings
from deploy.image.sizes import measure_extras
from tests.deploy.composing import COMPOSE, read_services
from tests.support.admin import AdminConnection, ask
from tests.support.backends import ENVIRON, build_options, serve_backends
from tests.support.polling import wait_for

# To build takes minutes where nothing is kept of an earlier build, more than `make test` has.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        bool(find_missing_tools()), reason="needs buildah and debootstrap; `make image` has them"
    ),
    pytest.mark.skipif(not STORE.is_dir(), reason="was not built here yet; `make image` does it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes the namespaces and mounts of a container"),
]

# What the documents may be off by, in MB: a dependency may be patched without their being written anew.
TOLERANCE_MB = 2

PAGE = ROOT / "docs" / "image.md"
README = ROOT / "README.md"

QUIET = """
interval_s = 60
[ingest]
socket = "/run/aiokpl-metricsd/metrics.sock"
[sinks.nowhere]
type = "null"
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(STORE)


@pytest.fixture(scope="module")
def name(engine: Engine) -> str:
    return build_image(engine, make_base(engine), "all")


@pytest.fixture(scope="module")
def image(engine: Engine, name: str) -> Iterator[Image]:
    with engine.mount(name) as mounted:
        yield mounted


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short directory, for sockets, which the image's user may enter."""
    with tempfile.TemporaryDirectory(prefix="metricsd-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def test_a_producer_outside_shares_the_socket_and_sigterm_ends_the_daemon_in_order(image: Image) -> None:
    run_daemon(image)


def test_nothing_of_what_builds_or_installs_is_left(image: Image) -> None:
    for pattern in ("pip", "pip-*", "setuptools*", "hatchling*", "ensurepip", "wheel"):
        for place in ("usr/lib/python3*", "usr/local/lib/python3*", "opt/*/lib/python3*"):
            for below in ("", "dist-packages/", "site-packages/"):
                assert not list(image.root.glob(f"{place}/{below}{pattern}")), pattern
    for name in ("pip", "pip3", "gcc", "cc", "make", "ld"):
        assert not [each for each in image.root.glob(f"*/bin/{name}") if each.exists()]
        assert not [each for each in image.root.glob(f"*/*/bin/{name}") if each.exists()]
    assert not (image.root / "src").exists()
    assert not (image.root / "opt/aiokpl-metricsd/finish.py").exists()
    assert list((image.root / "tmp").iterdir()) == []


def read_license() -> str:
    """Return the licence that the distribution names."""
    project = tomllib.loads((ROOT / "daemon" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["license"])


def read_sizes(path: Path, *patterns: str) -> list[float]:
    """Return the megabytes that a document states in these words."""
    text = path.read_text(encoding="utf-8")
    found = [re.search(pattern, text) for pattern in patterns]
    assert None not in found, (path, patterns)
    return [float(figure) for each in found if each is not None for figure in each.groups()]


def measure_above_mb(engine: Engine, name: str) -> float:
    return (engine.measure_bytes(name) - engine.measure_bytes(make_base(engine))) / 1e6


def test_it_is_as_small_as_the_documents_say(engine: Engine, name: str, image: Image) -> None:
    above, _ = read_sizes(PAGE, r"is (\d+) MB larger than its base with all extras, and (\d+) with none")
    assert measure_above_mb(engine, name) == pytest.approx(above, abs=TOLERANCE_MB)
    assert read_sizes(README, r"(\d+) MB above its base with all extras")[0] == above
    sizes = measure_extras(find_packages(image), ROOT)
    assert list(sizes) == ["daemon", *EXTRAS]
    stated = read_sizes(
        PAGE,
        r"The daemon with what it always needs has (\d+) MB",
        *(rf"`{extra}`(?: adds)? (\d+)" for extra in EXTRAS),
    )
    assert [size / 1e6 for size in sizes.values()] == pytest.approx(stated, abs=TOLERANCE_MB)


def find_packages(image: Image) -> Path:
    (site,) = image.root.glob("opt/aiokpl-metricsd/lib/python3*/site-packages")
    return site


def test_an_image_without_an_extra_has_no_sdk_and_its_daemon_runs(engine: Engine) -> None:
    name = build_image(engine, make_base(engine), "")
    with engine.mount(name) as bare:
        packages = {each.name.lower() for each in find_packages(bare).iterdir()}
        assert {"aiokpl_metricsd", "msgspec", "uvloop"} <= packages
        assert not packages & {
            "aiohttp",
            "aiobotocore",
            "botocore",
            "grpc",
            "opentelemetry",
            "datadog_api_client",
        }
        assert bare.config["Labels"]["aiokpl-metricsd.extras"] == ""
        run_daemon(bare)
    _, above = read_sizes(PAGE, r"is (\d+) MB larger than its base with all extras, and (\d+) with none")
    assert measure_above_mb(engine, name) == pytest.approx(above, abs=TOLERANCE_MB)
    assert read_sizes(README, r"with all extras, (\d+) with none")[0] == above


def test_nothing_of_the_machine_that_built_it_is_in_it(image: Image) -> None:
    assert not (image.root / "etc/pip.conf").exists()
    assert not (image.root / "run/secrets").exists()
    told = " ".join(image.config["Env"]) + str(image.config["Labels"])
    for value in read_pip_settings().values():
        assert value not in told or len(value) < 6
    assert "PIP_" not in told


def test_its_files_are_roots_and_only_its_own_directories_the_users(image: Image) -> None:
    owned = {
        str(path.relative_to(image.root))
        for place in ("opt", "run", "var/lib", "etc", "tmp")
        for path in (image.root / place).rglob("*")
        if path.lstat().st_uid == 65532
    }
    assert owned == {"run/aiokpl-metricsd", "var/lib/aiokpl-metricsd"}


def test_it_says_who_runs_what_and_what_it_is(image: Image) -> None:
    config = image.config
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["python3", "-m", "aiokpl_metricsd"]
    assert config["StopSignal"] == "SIGTERM"
    labels, oci = config["Labels"], "org.opencontainers.image"
    assert labels["aiokpl-metricsd.extras"] == "all"
    assert labels[f"{oci}.title"] == "aiokpl-metricsd"
    assert labels[f"{oci}.version"] == __version__
    assert labels[f"{oci}.licenses"] == read_license()
    assert labels[f"{oci}.base.name"] == BASE_IMAGE
    assert labels[f"{oci}.revision"] == read_revision()


def test_every_backend_gets_its_windows_from_the_image(image: Image, directory: Path) -> None:
    with serve_backends() as backends:
        tables = [f"[sinks.{name}]\n{build_options(name, url)}" for name, url in backends.urls().items()]
        config = '[http]\nlisten = "127.0.0.1:0"\n[sinks.page]\ntype = "prometheus"\n' + "\n".join(tables)
        config = f'interval_s = 1\nstate_dir = "/var/lib/aiokpl-metricsd/state"\n{config}'
        with Container(image, directory, configuration=config, environ=ENVIRON) as container:
            wait_until_accepting(container)
            produce(container.run / "metrics.sock")
            received = (
                lambda: backends.cloudwatch.accepted,
                lambda: backends.grpc.points,
                lambda: backends.http.points,
                lambda: backends.datadog.accepted,
            )
            wait_for(lambda: all(read() for read in received), "a window in every backend", 60)
            # What nobody has scraped is a warning at the end.
            wait_for(lambda: "OrdersTaken_total{" in read_page(container), "a page")
            container.send_signal(signal.SIGTERM)
            assert container.wait() == 0, container.stderr
        assert "ERROR" not in container.stderr
        assert "WARNING" not in container.stderr


def test_the_file_system_is_read_only_and_nothing_is_gained_by_exec(image: Image, directory: Path) -> None:
    with Container(image, directory, configuration=QUIET) as container:
        wait_until_accepting(container)
        touched = container.execute(["python3", "-c", "open('/opt/file', 'w')"])
        assert "Read-only file system" in touched.stderr
        assert container.read_status("NoNewPrivs") == "1"
        assert container.read_status("CapEff") == "0" * 16
        assert container.read_status("Uid").split() == ["65532"] * 4
        # In the image's own environment: what an operator types.
        status = container.execute(["aiokpl-metricsd", "status"])
        assert (status.returncode, status.stderr) == (0, "")


def test_the_health_check_needs_no_shell_and_follows_the_daemon(image: Image, directory: Path) -> None:
    with Container(image, directory, configuration=QUIET) as container:
        wait_until_accepting(container)
        # There is none.
        assert container.execute(["/bin/sh", "-c", "true"]).returncode != 0
        assert container.check_health() == 0
        assert (
            container.execute(["python3", "-m", "aiokpl_metricsd.healthcheck", "--ask", "/readyz"]).returncode
            == 0
        )
        (container.run / "metrics.sock").unlink()
        assert container.check_health() == 1


def test_the_compose_files_producer_is_on_the_page_of_the_daemon_beside_it(
    engine: Engine, image: Image, directory: Path
) -> None:
    service = read_services()["producer"]
    file = ROOT / service["build"]["dockerfile"]
    name = "localhost/aiokpl-metricsd-demo:test"
    engine.build(ROOT, name, file=file, arguments={"BASE_IMAGE": make_base(engine)})
    sinks = (COMPOSE / "sinks.toml").read_text(encoding="utf-8")
    # The network is the machine's here.
    sinks = sinks.replace("interval_s = 10", "interval_s = 1").replace("0.0.0.0:9464", "127.0.0.1:0")
    places = [directory / "daemon", directory / "producer"]
    for place in places:
        place.mkdir()
    with engine.mount(name) as demo, Container(image, places[0], configuration=sinks) as daemon:
        assert demo.config["User"] == service["user"]
        wait_until_accepting(daemon)
        groups = service["group_add"]
        with Container(demo, places[1], (), shared=Shared(daemon.run, groups)) as producer:
            producer.wait_until(lambda: "UserRecordsPut_total{" in read_page(daemon), "series on the page")
            assert "metricsd_client_events_dropped_total" not in read_page(daemon)
            assert producer.read_status("Groups").split() == groups
            assert producer.read_status("CapEff") == "0" * 16
            producer.send_signal(signal.SIGINT)
            assert producer.wait() == 0, producer.stderr
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0, daemon.stderr


def read_page(container: Container) -> str:
    """Return the page, as it is read over the Unix socket."""
    with closing(AdminConnection(container.run / "admin.sock")) as connection:
        status, page = ask(connection, "/metrics")
    assert status == 200
    return page


@pytest.mark.parametrize("files", [0, 100, 200, 300, 400])
def test_sigterm_ends_process_1_at_any_moment_after_its_first_statement(
    image: Image, directory: Path, files: int
) -> None:
    """The moment is told by what the interpreter has opened, up to the socket."""
    with Container(image, directory, configuration=QUIET) as container:
        pid = container.find_pid()
        container.wait_until(lambda: container.catches(signal.SIGTERM), "handler of SIGTERM")
        container.wait_until(
            lambda: count_reads(pid) >= files or can_connect(container.run / "metrics.sock"), "reads"
        )
        os.kill(pid, signal.SIGTERM)
        assert container.wait() == 0
        assert "Traceback" not in container.stderr


def count_reads(pid: int) -> int:
    """Return how often a process has read so far: some three times for each module that it imports."""
    try:
        return int(Path(f"/proc/{pid}/io").read_text().split()[5])
    except (OSError, IndexError):
        return 1 << 30


def wait_until_accepting(container: Container) -> None:
    container.find_pid()
    container.wait_until(lambda: can_connect(container.run / "metrics.sock"), "socket")
