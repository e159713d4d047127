"""Canaries in place of all secrets, and backends that fail in every way: no output has one of them."""

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from aiokpl_metricsd.cli import app
from tests.support.admin import ask, open_admin
from tests.support.backends import ENVIRON
from tests.support.child import ROOT, Nursery, build_environment
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import TIMEOUT_S, wait_for

ROWS = encode(EventsFrame([MetricEvent("m", 1.0, 0.0)]))

# One for each way in: variables that the file names, variables that SDKs read, and files.
CANARIES = {
    "CANARY_DD_API": "canary-1-dd-api-5d1f",
    "CANARY_DD_APP": "canary-2-dd-app-5d1f",
    "CANARY_PROXY": "canary-3-proxy-5d1f",
    "CANARY_AWS_ID": "CANARY4AWSID5D1F",
    "CANARY_AWS_SECRET": "canary-5-aws/secret+5d1f=",
    "CANARY_AWS_TOKEN": "canary-6-aws-token//5d1f==",
    "CANARY_HEADER": "canary-7-header 5d1f",
    "CANARY_DSN": 'canary-8 "dsn"\\5d1f\nof two lines',
    "OTEL_EXPORTER_OTLP_HEADERS": "x-token=canary-9-otel-5d1f",
    "DD_API_KEY": "canary-10-environment-5d1f",
}
FILE_CANARY = "canary-11-file-5d1f"

# A daemon with a fault of its own, in whose words a secret is.
FAULT = """
import sys
from aiokpl_metricsd import process
def run(configuration, *rest):
    raise RuntimeError(configuration.sinks["a"].options["api_key"])
process._run = run
sys.exit(process.serve(*sys.argv[1:]))
"""

# A command with such a fault: what it calls first raises the secret of a variable.
COMMAND_FAULT = """
import importlib, os, sys
module, name, variable = sys.argv.pop(1).split(":")
def fail(*arguments, **options):
    raise RuntimeError(os.environ[variable]) from KeyError(os.environ[variable])
setattr(importlib.import_module(module), name, fail)
from aiokpl_metricsd.cli import run
run()
"""

# What each command calls, and a secret that it knows by then: of the configuration, or of the environment.
FAULTS: dict[tuple[str, ...], str] = {
    ("check",): "aiokpl_metricsd.inspection:inspect_configuration:CANARY_DD_API",
    ("doctor",): "aiokpl_metricsd.examining.examination:examine:CANARY_DD_API",
    ("doctor", "--json"): "aiokpl_metricsd.examining.examination:examine:CANARY_DD_API",
    ("status",): "aiokpl_metricsd.serving.inquiry:ask_ledger:DD_API_KEY",
}

# How many `write_sinks` describes.
SINKS = 7

# Parts that are in every form of a canary, however it is escaped, and in nothing else.
MARKS = ("canary-", "CANARY4", "5d1f", "5D1F")


class Echo(http.server.BaseHTTPRequestHandler):
    """Refuses whatever comes, and says back what came: a proxy's error page does."""

    status = 401

    def do_POST(self) -> None:
        """Answer with the request's own head."""
        body = f"{self.requestline}\n{self.headers}".encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Amzn-ErrorMessage", quote(self.headers.get("Authorization", "")))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_CONNECT = do_POST  # noqa: N815 - the original's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the original's
        """Say nothing."""


class Redirect(Echo):
    """Sends everybody elsewhere, with the head in the address."""

    def do_POST(self) -> None:
        """Answer with a redirect."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.1:9/?{quote(str(self.headers))}")
        self.send_header("Content-Length", "0")
        self.end_headers()


class Broken(Echo):
    """Fails, with the head in what it says."""

    status = 500


@contextmanager
def serve(kind: str) -> Generator[str]:
    """Serve a backend that fails in this way; yield its address."""
    if kind in {"refused", "silent"}:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if kind == "silent":
                listener.listen()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        return
    if kind == "unknown":
        yield "http://nowhere.invalid:1"
        return
    handler = {"unauthorized": Echo, "broken": Broken, "redirects": Redirect}[kind]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def write_sinks(directory: Path, url: str, stage: str) -> str:
    """Return tables of every sink that has secrets, with a canary in each of them."""
    secret_file = directory / "secret"
    secret_file.write_text(FILE_CANARY, encoding="utf-8")
    secret_file.chmod(0o644)
    userinfo = url.replace("http://", "http://user:${CANARY_PROXY}@")
    return f"""
[sinks.datadog]
type = "datadog"
timeout_s = 1
request_timeout_s = 0.5
api_key = "${{CANARY_DD_API}}"
app_key = "${{CANARY_DD_APP}}"
endpoint_url = "{url}"
[sinks.datadog_file]
type = "datadog"
timeout_s = 1
api_key_file = "{secret_file}"
endpoint_url = "{url}"
proxy = "{userinfo}"
[sinks.datadog_environment]
type = "datadog"
timeout_s = 1
endpoint_url = "{userinfo}"
[sinks.cloudwatch]
type = "cloudwatch"
timeout_s = 1
region = "eu-west-1"
request_timeout_s = 0.5
aws_access_key_id = "${{CANARY_AWS_ID}}"
aws_secret_access_key = "${{CANARY_AWS_SECRET}}"
aws_session_token = "${{CANARY_AWS_TOKEN}}"
endpoint_url = "{url}"
[sinks.grpc]
type = "opentelemetry"
timeout_s = 1
endpoint = "{url}"
headers = {{ "x-api-key" = "${{CANARY_HEADER}}" }}
[sinks.http]
type = "opentelemetry"
protocol = "http/protobuf"
timeout_s = 1
endpoint = "{url}"
[sinks.acme]
type = "tests.support.canary_sink:CanarySink"
dsn = "${{CANARY_DSN}}"
stage = "{stage}"
"""


def check_hidden(output: str) -> None:
    """Assert that no canary is in an output, in whatever form."""
    lines = [line for line in output.splitlines() if any(mark in line for mark in MARKS)]
    assert lines == []


def run_command(*arguments: str) -> str:
    """Return all that a command says."""
    done = subprocess.run(
        [sys.executable, "-m", "aiokpl_metricsd", *arguments],
        cwd=ROOT,
        env=build_environment({**ENVIRON, **CANARIES}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.stdout + done.stderr


def list_failed(daemon: DaemonProcess) -> set[str]:
    """Return the names of the sinks that have said why they failed."""
    return {line["sink"] for line in daemon.log if line["message"].endswith("failed")}


def read_all(daemon: DaemonProcess) -> str:
    """Return what a daemon says wherever it may be asked."""
    path = str(daemon.socket_path)
    said = [run_command("status", "--socket", path), run_command("status", "--json", "--socket", path)]
    with open_admin(daemon) as admin:
        for page in ("/metrics", "/ledger", "/snapshot"):
            status, body = ask(admin, page)
            assert status == 200
            said.append(body)
    assert all(said)
    return "\n".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unauthorized", "broken", "redirects", "refused", "silent", "unknown"])
def test_backends_that_fail_get_no_secret_into_any_output(nursery: Nursery, kind: str) -> None:
    with serve(kind) as url:
        sinks = write_sinks(nursery.directory, url, "export")
        command = (sys.executable, "-m", "aiokpl_metricsd", "--log-level", "debug")
        daemon = DaemonProcess(nursery, sinks, environ={**ENVIRON, **CANARIES}, command=command)
        daemon.wait_until_listening()
        send_datagram(daemon.socket_path, ROWS)
        wait_for(lambda: len(list_failed(daemon)) == SINKS, "a failure of each sink")
        check_hidden(read_all(daemon))
        assert daemon.stop() == 0
    check_hidden(daemon.stderr)
    check_hidden(daemon.stdout)
    # The canaries were there, and were taken out.
    assert daemon.stderr.count("***") >= SINKS
    assert daemon.log[-1]["message"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unauthorized", "redirects", "silent", "unknown"])
def test_doctor_shows_no_secret_of_backends_that_fail(nursery: Nursery, kind: str) -> None:
    path = nursery.directory / "c.toml"
    with serve(kind) as url:
        path.write_text(write_sinks(nursery.directory, url, "export"), encoding="utf-8")
        # At the same time: some of them have to wait for a backend that is silent.
        doctors = [
            nursery.start_python(
                *("-m", "aiokpl_metricsd", "doctor", "--config", str(path), *arguments),
                environ={**ENVIRON, **CANARIES},
            )
            for arguments in ((), ("--json",))
        ]
        statuses = [doctor.wait() for doctor in doctors]
    assert statuses == [2, 2]
    for doctor in doctors:
        check_hidden(doctor.stdout)
        check_hidden(doctor.stderr)
        assert "sink datadog" in doctor.stdout
        assert "Traceback" not in doctor.stdout + doctor.stderr
    outcomes = {each["check"]: each["outcome"] for each in json.loads(doctors[1].stdout)["findings"]}
    assert outcomes["sink datadog"] == "failure"


@pytest.mark.parametrize("stage", ["build", "check"])
@pytest.mark.parametrize("command", [("check",), ("doctor", "--offline"), ("doctor", "--offline", "--json")])
def test_a_sink_that_fails_in_the_check_shows_no_secret(
    nursery: Nursery, command: tuple[str, ...], stage: str
) -> None:
    path = nursery.directory / "c.toml"
    path.write_text(write_sinks(nursery.directory, "http://127.0.0.1:9", stage), encoding="utf-8")
    said = run_command(*command, "--config", str(path))
    check_hidden(said)
    assert "sinks.acme]" in said or "sink acme" in said
    assert "***" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("stage", ["enter", "record", "exit"])
def test_a_sink_that_fails_in_its_life_shows_no_secret_in_either_format(
    nursery: Nursery, stage: str, log_format: str
) -> None:
    path = nursery.directory / "c.toml"
    path.write_text(
        f'interval_s = 1\ngrace_s = 0\n[ingest]\nsocket = "{nursery.directory}/s"\n[sinks.acme]\n'
        f'type = "tests.support.canary_sink:CanarySink"\ndsn = "${{CANARY_DSN}}"\nstage = "{stage}"\n',
        encoding="utf-8",
    )
    daemon = nursery.start_python(
        *("-m", "aiokpl_metricsd", "--config", str(path), "--log-format", log_format), environ=CANARIES
    )
    wait_for(lambda: "listening" in daemon.stderr, "the log")
    send_datagram(nursery.directory / "s", ROWS)
    wait_for(lambda: "***" in daemon.stderr or stage == "exit", "a failure")
    daemon.send_signal(15)
    assert daemon.wait() == 0
    check_hidden(daemon.stderr)
    assert "***" in daemon.stderr


def test_mistakes_in_the_configuration_show_no_secret(directory: Path) -> None:
    path = directory / "c.toml"
    for table in (
        'type = "datadog"\nsite = "${CANARY_DD_API}/x"',
        'type = "datadog"\napi_ky = "${CANARY_DD_API}"',
        'type = "datadog"\nrequest_timeout_s = "${CANARY_DD_API}"',
        'type = "datadog"\nendpoint_url = "ftp://${CANARY_DD_API}"',
        'type = "datadog"\ntags = "${CANARY_DD_API}"',
        'type = "opentelemetry"\nendpoint = "http://me:${CANARY_PROXY}@x:1"',
        'type = "opentelemetry"\nheaders = { "x-api-key" = "${CANARY_DSN}" }',
        'type = "opentelemetry"\nprotocol = "${CANARY_HEADER}"',
        'type = "cloudwatch"\nregion = "r"\naws_secret_access_key = "${CANARY_AWS_SECRET}"',
        'type = "cloudwatch"\nregion = "${CANARY_AWS_SECRET}"\nmax_datums = 0',
        'type = "${CANARY_DD_API}"',
        'type = "jsonl"\npath = "/nowhere/${CANARY_DD_API}/x"\nkeep = -1',
        'type = "datadog"\napi_key = "canary-written-5d1f"',
        'type = "datadog"\nproxy = "http://me:canary-written-5d1f@x"',
    ):
        path.write_text(f"[sinks.a]\n{table}\n", encoding="utf-8")
        result = CliRunner().invoke(app, ["check", "--config", str(path)], env={**ENVIRON, **CANARIES})
        check_hidden(result.output)
        assert result.exit_code == 2, (table, result.output)
        assert "[sinks.a" in result.output


def test_the_check_warns_of_a_secrets_file_that_everybody_may_read_and_shows_nothing_of_it(
    directory: Path,
) -> None:
    path, secret = directory / "c.toml", directory / "key"
    secret.write_text(FILE_CANARY, encoding="utf-8")
    path.write_text(f'[sinks.a]\ntype = "datadog"\napi_key_file = "{secret}"\n', encoding="utf-8")
    said: dict[int, str] = {}
    for mode in (0o644, 0o640):
        secret.chmod(mode)
        result = CliRunner().invoke(app, ["check", "--config", str(path)], env=ENVIRON)
        assert result.exit_code == 0
        check_hidden(result.output)
        said[mode] = result.stderr
    assert f'warning: {path}: [sinks.a] api_key: the content of the file "{secret}" is open' in said[0o644]
    assert said[0o640] == ""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_error_that_nobody_expected_ends_the_daemon_with_a_line_that_shows_no_secret(
    nursery: Nursery, log_format: str
) -> None:
    path = nursery.directory / "c.toml"
    path.write_text(
        f'[ingest]\nsocket = "{nursery.directory}/s"\n[sinks.a]\ntype = "datadog"\n'
        'api_key = "${CANARY_DD_API}"\n',
        encoding="utf-8",
    )
    daemon = nursery.start_python("-c", FAULT, str(path), log_format, environ={**ENVIRON, **CANARIES})
    assert daemon.wait() == 1
    check_hidden(daemon.stderr)
    assert "ended by an error that nobody expected" in daemon.stderr
    assert "RuntimeError: ***" in daemon.stderr
    assert len(daemon.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", FAULTS, ids=" ".join)
def test_an_error_that_nobody_expected_ends_a_command_with_a_line_that_shows_no_secret(
    nursery: Nursery, command: tuple[str, ...]
) -> None:
    path = nursery.directory / "c.toml"
    path.write_text('[sinks.a]\ntype = "datadog"\napi_key = "${CANARY_DD_API}"\n', encoding="utf-8")
    place = ("--socket", str(path)) if command == ("status",) else ("--config", str(path))
    child = nursery.start_python(
        *("-c", COMMAND_FAULT, FAULTS[command], *command, *place), environ={**ENVIRON, **CANARIES}
    )
    assert child.wait() == (2 if command[0] == "doctor" else 1)
    check_hidden(child.stderr)
    assert child.stdout == ""
    assert "ended by an error that nobody expected" in child.stderr
    assert "RuntimeError: ***" in child.stderr
    assert len(child.stderr.splitlines()) == 1
