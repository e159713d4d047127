"""The image, really built, without a Docker engine; and the daemon from it, as process 1 of a container.

`make image` installs what it needs, and runs it. The base is debootstrap's, in place of a registry's.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.image.__main__ import ROOT, STORE, build_image, produce, run_daemon
from deploy.image.base import make_base
from deploy.image.build import EXTRAS
from deploy.image.container import Container, can_connect
from deploy.image.engine import Engine, Image, find_missing_tools, read_pip_settings
from deploy.image.sizes import measure_extras
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

MAX_BYTES_ABOVE_BASE = 60_000_000

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


def test_it_is_small(engine: Engine, name: str, image: Image) -> None:
    above = engine.measure_bytes(name) - engine.measure_bytes(make_base(engine))
    assert 0 < above < MAX_BYTES_ABOVE_BASE
    (site,) = image.root.glob("opt/aiokpl-metricsd/lib/python3*/site-packages")
    sizes = measure_extras(site, ROOT)
    assert list(sizes) == ["daemon", *EXTRAS]
    assert all(above > size > 0 for size in sizes.values())


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
    assert config["Labels"]["org.opencontainers.image.title"] == "aiokpl-metricsd"
    assert config["Labels"]["aiokpl-metricsd.extras"] == "all"


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
