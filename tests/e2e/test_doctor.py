"""`doctor` as a process, and each fault really there: it is found, with what to do; no secret is shown."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pod.cgroup import limit
from tests.support import cloudwatch_stub
from tests.support.admin import ask, open_admin
from tests.support.backends import DATADOG_KEY, Backends, build_options, serve_backends, url_of
from tests.support.child import Child, Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import wait_for
from tests.support.small_disk import Filler, mount_disk

Finding = dict[str, str]

# Somebody without any right, by Linux's custom.
NOBODY = 65_534

# Once as root, so that all is imported: nobody may not be able to read it where it lies.
AS_NOBODY = f"""
import contextlib, io, os, sys
from aiokpl_metricsd.cli import app, run
with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())), contextlib.suppress(SystemExit):
    app(sys.argv[1:])
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
run()
"""

IN_CGROUP = """
import os, pathlib, sys
for path in sys.argv.pop(1).split(":"):
    pathlib.Path(path).write_text(str(os.getpid()))
from aiokpl_metricsd.__main__ import main
main()
"""

LIST_MODULES = """
import atexit, sys
atexit.register(lambda: print("MODULES", *sys.modules, file=sys.stderr))
from aiokpl_metricsd.__main__ import main
main()
"""


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[Backends]:
    cloudwatch_stub.isolate(monkeypatch, directory)
    with serve_backends() as served:
        yield served


def write_config(nursery: Nursery, text: str, *, top: str = "", socket_path: Path | None = None) -> str:
    path = nursery.directory / "doctor.toml"
    listening = socket_path or nursery.directory / "metrics.sock"
    path.write_text(f'{top}\n[ingest]\nsocket = "{listening}"\n{text}')
    return str(path)


def run_doctor(nursery: Nursery, config: str, *arguments: str) -> Child:
    child = nursery.start_python("-m", "aiokpl_metricsd", "doctor", "--config", config, *arguments)
    child.wait()
    assert child.stderr == ""
    return child


def read_findings(nursery: Nursery, config: str, *arguments: str) -> tuple[int, list[Finding]]:
    """Return the exit status and the findings, which agree."""
    child = run_doctor(nursery, config, "--json", *arguments)
    answer: dict[str, Any] = json.loads(child.stdout)
    findings: list[Finding] = answer["findings"]
    status = child.wait()
    outcomes = {finding["outcome"] for finding in findings}
    worst = next((each for each in ("failure", "warning") if each in outcomes), "ok")
    assert (answer["outcome"], status) == (worst, {"ok": 0, "warning": 1, "failure": 2}[worst])
    # Whatever is wrong comes with what to do.
    assert all(bool(finding["advice"]) == (finding["outcome"] != "ok") for finding in findings), findings
    return status, findings


def list_wrong(findings: list[Finding]) -> dict[str, str]:
    """Return what is wrong, by what it is about; a test's directory may be in memory, which is no fault."""
    return {
        finding["check"]: f"{finding['outcome']}: {finding['message']}"
        for finding in findings
        if finding["outcome"] != "ok" and "is in memory (" not in finding["message"]
    }


def build_sinks(backends: Backends) -> str:
    tables = (
        f"[sinks.{name}]\n{build_options(name, url_of(each))}" for name, each in backends.by_name().items()
    )
    return "\n".join(tables)


def test_a_healthy_machine_with_every_backend_and_a_daemon_at_work(
    nursery: Nursery, backends: Backends
) -> None:
    state = nursery.directory / "state"
    sinks = build_sinks(backends)
    daemon = DaemonProcess(nursery, sinks, top=f'state_dir = "{state}"').wait_until_listening()
    _, findings = read_findings(nursery, str(daemon.config_path))
    assert list_wrong(findings) == {}
    said = [f"{finding['check']}: {finding['message']}" for finding in findings]
    assert f"socket: {daemon.socket_path}: a daemon takes events there" in said
    assert "sink cloudwatch: the credentials are accepted" in said
    assert "sink datadog: the key is accepted" in said
    assert said.count("sink grpc: an empty request is accepted") == 1
    assert "clock: as the backend of http says" in said
    assert backends.datadog.validations == [True]
    # Nothing was changed: the backends took nothing, and the daemon goes on.
    taken = [*backends.cloudwatch.accepted, *backends.http.points, *backends.grpc.points]
    assert taken == []
    assert daemon.is_running()
    assert daemon.stop() == 0


def test_wrong_keys_and_backends_that_are_away_are_failures_and_no_secret_is_shown(
    nursery: Nursery, backends: Backends
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        sinks = build_sinks(backends).replace(f":-{DATADOG_KEY}}}", ":-wrong-datadog-key}")
        sinks = sinks.replace(cloudwatch_stub.SECRET_ACCESS_KEY, "wrong-secret-access-key")
        sinks = sinks.replace(url_of(backends.http), f"http://127.0.0.1:{port}")
        config = write_config(nursery, sinks)
        status, findings = read_findings(nursery, config)
        wrong = list_wrong(findings)
        assert status == 2
        assert set(wrong) == {"sink cloudwatch", "sink http", "sink datadog"}
        assert (
            "credentials or permissions are not accepted (SignatureDoesNotMatch" in wrong["sink cloudwatch"]
        )
        assert wrong["sink http"] == f"failure: 127.0.0.1:{port}: no connection: Connection refused"
        assert "the API key is not accepted (403" in wrong["sink datadog"]
        # The same, without asking anybody.
        status, findings = read_findings(nursery, config, "--offline")
        assert list_wrong(findings) == {}
        assert backends.datadog.validations == [False]
        shown = run_doctor(nursery, config)
    assert shown.stdout.splitlines()[-1].endswith(", 3 failure")
    for secret in ("wrong-datadog-key", "wrong-secret-access-key", cloudwatch_stub.SECRET_ACCESS_KEY):
        assert secret not in shown.stdout + json.dumps(findings)


@pytest.mark.parametrize(("ahead_s", "outcome"), [(60.0, "warning"), (-400.0, "failure")])
def test_a_clock_that_differs_from_the_backend_s(
    nursery: Nursery, backends: Backends, ahead_s: float, outcome: str
) -> None:
    backends.datadog.ahead_s = ahead_s
    table = build_options("datadog", backends.datadog.url)
    _, findings = read_findings(nursery, write_config(nursery, f"[sinks.dd]\n{table}"))
    wrong = list_wrong(findings)
    assert set(wrong) == {"clock"}
    assert wrong["clock"].startswith(f"{outcome}: ")
    assert f"{'behind' if ahead_s > 0 else 'ahead of'} the backend of dd" in wrong["clock"]


def test_a_killed_daemon_leaves_a_socket_that_is_a_warning(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    daemon.stop(signal.SIGKILL)
    status, findings = read_findings(nursery, str(daemon.config_path))
    assert status == 1
    said = "a socket without a daemon, as one that was killed leaves it"
    assert list_wrong(findings) == {"socket": f"warning: {daemon.socket_path}: {said}"}


def test_what_a_daemon_has_lost_is_a_warning_with_its_reason(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    send_datagram(daemon.socket_path, b"no frame")
    with open_admin(daemon) as connection:
        wait_for(lambda: json.loads(ask(connection, "/ledger")[1])["losses"], "the loss")
    _, findings = read_findings(nursery, str(daemon.config_path))
    assert list_wrong(findings)["daemon"].startswith("warning: lost: 1 datagrams_rejected")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_told_what_it_may_not_use(nursery: Nursery) -> None:
    nursery.directory.chmod(0o755)
    state = nursery.directory / "state"
    daemon = DaemonProcess(nursery, top=f'state_dir = "{state}"').wait_until_listening()
    config = write_config(
        nursery,
        '[sinks.nothing]\ntype = "null"\n',
        top=f'state_dir = "{state}"',
        socket_path=daemon.socket_path,
    )
    Path(config).chmod(0o644)
    child = nursery.start_python("-c", AS_NOBODY, "doctor", "--json", "--config", config)
    assert child.wait() == 2, child.stderr
    findings: list[Finding] = json.loads(child.stdout)["findings"]
    wrong = [f"{each['check']}: {each['message']}" for each in findings if each["outcome"] == "failure"]
    assert any(f"{nursery.directory} cannot be written by uid {NOBODY}" in each for each in wrong)
    assert f"socket: {daemon.socket_path}: Permission denied" in wrong
    assert f"state: state_dir: {state} cannot be made: Permission denied" in wrong


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_where_not_even_the_way_there_is_open_that_is_said(nursery: Nursery) -> None:
    nursery.directory.chmod(0o711)
    (nursery.directory / "closed").mkdir(mode=0o700)
    closed = nursery.directory / "closed" / "below"
    config = write_config(
        nursery,
        '[sinks.nothing]\ntype = "null"\n',
        top=f'state_dir = "{closed}/state"',
        socket_path=closed / "m.sock",
    )
    child = nursery.start_python("-c", AS_NOBODY, "doctor", "--config", config)
    assert (child.wait(), child.stderr) == (2, "")
    assert f"{closed} cannot be made by uid {NOBODY}" in child.stdout
    assert f"{closed}/m.sock: Permission denied" in child.stdout


def test_a_full_disk_in_memory_is_found(nursery: Nursery) -> None:
    with mount_disk(nursery.directory / "state", "size=24m") as disk:
        config = write_config(
            nursery,
            '[sinks.nothing]\ntype = "null"\n',
            top=f'state_dir = "{disk}"\noutbox_max_bytes = 1048576',
        )
        _, findings = read_findings(nursery, config)
        said = [f"{each['outcome']}: {each['message']}" for each in findings if each["check"] == "state"]
        assert any(each.startswith(f"warning: {disk} is in memory (tmpfs)") for each in said)
        assert any(each.startswith("warning: the volume is too small: 2") for each in said)
        with Filler(disk):
            status, findings = read_findings(nursery, config)
        said = [each["message"] for each in findings if each["outcome"] == "failure"]
    assert status == 2
    assert any(each.endswith("and cannot be written: No space left on device") for each in said)
    assert any(each.startswith("the volume is full: 0 MiB free") for each in said)


def test_a_memory_limit_below_what_the_series_need_is_found(nursery: Nursery) -> None:
    config = write_config(nursery, '[sinks.nothing]\ntype = "null"\n')
    with limit(memory_bytes=100 << 20) as limits:
        processes = ":".join(map(str, limits.processes))
        child = nursery.start_python("-c", IN_CGROUP, processes, "doctor", "--json", "--config", config)
        assert child.wait() == 1, child.stderr
    wrong = list_wrong(json.loads(child.stdout)["findings"])
    assert set(wrong) == {"memory"}
    assert wrong["memory"].startswith("warning: the memory limit is 100 MiB, and 100,000 series need 1")


def test_a_configuration_that_cannot_be_used_is_the_first_failure(nursery: Nursery) -> None:
    config = write_config(nursery, '[sinks.nothing]\ntype = "nul"\n')
    status, findings = read_findings(nursery, config)
    assert status == 2
    assert findings[0]["check"] == "configuration"
    assert "did you mean null?" in findings[0]["message"]


def test_only_the_packages_of_configured_sinks_are_imported(nursery: Nursery) -> None:
    config = write_config(nursery, '[sinks.nothing]\ntype = "null"\n')
    child = nursery.start_python("-c", LIST_MODULES, "doctor", "--config", config)
    assert child.wait() == 0, child.stdout
    modules = child.stderr.split()
    assert "aiokpl_metricsd.sinks.null" in modules
    foreign = ("aiobotocore", "aiohttp", "botocore", "datadog_api_client", "grpc", "opentelemetry")
    assert [name for name in modules if name.partition(".")[0] in foreign] == []
    assert "aiokpl_metricsd.sinks.cloudwatch.sink" not in modules
