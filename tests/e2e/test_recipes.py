"""Each recipe runs as it stands in the page, beside the real daemon, and its events arrive."""

import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.support.admin import AdminConnection, ask
from tests.support.child import ROOT, Child, Nursery, add_import_path
from tests.support.daemon import DaemonProcess, can_connect
from tests.support.polling import wait_for
from tests.support.rows import check_balance

PAGE = ROOT / "docs" / "recipes.md"

REQUESTS = 20

UWSGI = shutil.which("uwsgi", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))

FORKS = ["lazy-apps = true", "py-call-uwsgi-fork-hooks = true"]


def read_files() -> dict[str, str]:
    """Return the page's files by their names."""
    text = PAGE.read_text(encoding="utf-8")
    return dict(re.findall(r"^```\w+\n# (\S+\.\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def read_commands() -> list[str]:
    return re.findall(r"^```sh\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def daemon(nursery: Nursery) -> DaemonProcess:
    return DaemonProcess(nursery).wait_until_listening()


@pytest.fixture
def place(nursery: Nursery) -> Path:
    """The nursery's directory, with the page's files in it."""
    for name, body in read_files().items():
        (nursery.directory / name).write_text(body, encoding="utf-8")
    return nursery.directory


def start(nursery: Nursery, daemon: DaemonProcess, command: list[str], **environ: str) -> Child:
    variables = {"AIOKPL_METRICSD_SOCKET": str(daemon.socket_path), **add_import_path(nursery.directory)}
    return nursery.start(command, environ={**variables, **environ})


def serve(nursery: Nursery, daemon: DaemonProcess, command: list[str], path: str = "/") -> None:
    """Start a server that listens at `http.sock`, ask it, and end both when the daemon has all requests."""
    server = start(nursery, daemon, command)
    door = nursery.directory / "http.sock"
    # The file is there before anybody listens.
    wait_for(lambda: can_connect(door, socket.SOCK_STREAM) or not server.is_running(), "the server")
    for _ in range(REQUESTS):
        connection = AdminConnection(door)
        assert ask(connection, path)[0] == 200, server.stderr
        connection.close()
    wait_for(lambda: sum_up(daemon, "requests") == REQUESTS, "the requests")
    assert server.is_running(), server.stderr
    server.send_signal(signal.SIGTERM)
    server.wait()
    assert daemon.stop() == 0
    assert sum_up(daemon, "requests") == count(daemon, "request.time") == REQUESTS
    assert {row.dimensions["service"] for row in daemon.rows()} == {"shop"}
    check_balance(daemon.ledger)


def sum_up(daemon: DaemonProcess, name: str) -> float:
    return sum(row.sum for row in daemon.rows() if row.name == name)


def count(daemon: DaemonProcess, name: str) -> int:
    return sum(row.count for row in daemon.rows() if row.name == name)


def need(*modules: str) -> None:
    for name in modules:
        pytest.importorskip(name)


def test_the_page_has_the_recipes_that_are_run_here() -> None:
    assert set(read_files()) == {
        *("shop_api.py", "shop.py", "gunicorn.conf.py", "nightly.py", "put_orders.py", "uwsgi.ini")
    }
    assert read_commands() == [
        "uvicorn --workers 4 shop_api:app",
        "gunicorn shop:application",
        "python nightly.py",
        "python put_orders.py",
        "uwsgi --ini uwsgi.ini",
    ]


@pytest.mark.slow
def test_fastapi(nursery: Nursery, daemon: DaemonProcess, place: Path) -> None:
    need("fastapi", "uvicorn")
    command = [sys.executable, "-m", "uvicorn", "--uds", str(place / "http.sock"), "shop_api:app"]
    serve(nursery, daemon, command, "/orders")
    (row,) = [row for row in daemon.rows() if row.name == "requests.open"][-1:]
    assert (row.kind, row.last) == ("gauge", 0.0)
    rows = [row for row in daemon.rows() if row.name == "requests"]
    assert {(row.dimensions["method"], row.dimensions["status"]) for row in rows} == {("GET", "200")}


@pytest.mark.slow
def test_gunicorn(nursery: Nursery, daemon: DaemonProcess, place: Path) -> None:
    need("gunicorn")
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(place)]
    command += ["--config", str(place / "gunicorn.conf.py"), "--no-control-socket"]
    command += ["--bind", f"unix:{place}/http.sock", "shop:application"]
    serve(nursery, daemon, command)


@pytest.mark.slow
@pytest.mark.skipif(UWSGI is None, reason="uwsgi is not installed; `make integration` builds it")
@pytest.mark.parametrize("fork", FORKS, ids=["lazy", "hooks"])
def test_uwsgi(nursery: Nursery, daemon: DaemonProcess, place: Path, fork: str) -> None:
    assert FORKS[1].split(" = ")[0] in PAGE.read_text(encoding="utf-8")
    assert UWSGI is not None
    ini = place / "uwsgi.ini"
    text = ini.read_text(encoding="utf-8").replace("127.0.0.1:8000", f"{place}/http.sock")
    ini.write_text(text.replace(FORKS[0], fork), encoding="utf-8")
    paths = [each for path in sys.path if path for each in ("--pythonpath", path)]
    serve(nursery, daemon, [UWSGI, "--ini", str(ini), *paths, "--home", sys.prefix])


@pytest.mark.slow
def test_a_cron_script(nursery: Nursery, daemon: DaemonProcess, place: Path) -> None:
    script = start(nursery, daemon, [sys.executable, "-W", "error", str(place / "nightly.py")])
    assert script.wait() == 0, script.stderr
    assert daemon.stop() == 0
    assert (sum_up(daemon, "job.rows"), count(daemon, "job.runs"), count(daemon, "job.time")) == (1_000, 1, 1)


@pytest.mark.slow
def test_aiokpl(nursery: Nursery, daemon: DaemonProcess, place: Path) -> None:
    need("aiokpl", "moto", "botocore")
    from tests.support.kinesis import serve_kinesis

    with serve_kinesis("orders", shards=1) as (endpoint, environ):
        script = start(
            nursery,
            daemon,
            [sys.executable, str(place / "put_orders.py")],
            KINESIS_ENDPOINT=endpoint,
            **environ,
        )
        assert script.wait() == 0, script.stderr
    assert daemon.stop() == 0
    assert sum_up(daemon, "UserRecordsPut") == 100
    assert count(daemon, "RequestTime") > 0
