"""Behind what the systemd unit forbids, the daemon with all its sinks serves and ends as it does elsewhere.

systemd itself needs to be process 1; what its settings ask the kernel for is asked for without it. The file
system that is read-only, and the user who is not root, are shown by the tests of the image.
"""

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from aiokpl_metrics_client import MetricsClient
from aiokpl_metricsd.sinks.loading import BUILTIN
from tests.deploy.units import SERVICE, read_unit
from tests.support import fenced
from tests.support.admin import ask, open_admin
from tests.support.backends import ENVIRON, Backends, build_options, serve_backends
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess
from tests.support.fenced import SECCOMP, Fence
from tests.support.polling import wait_for

LAUNCHER = fenced.__file__

LOCAL = """
[http]
listen = "127.0.0.1:0"
[sinks.page]
type = "prometheus"
[sinks.terminal]
type = "console"
format = "json"
[sinks.nowhere]
type = "null"
[sinks.kept]
type = "memory"
"""

# What each of the fences denies, tried behind it: status 0 when it is denied.
TRIES = {
    "memory": "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "calls": "import os; os.sched_setaffinity(0, os.sched_getaffinity(0))",
    "families": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
}


def can_deny_writable_code() -> bool:
    done = subprocess.run(
        [sys.executable, LAUNCHER, '{"memory": true}', shutil.which("true") or ""],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def can_filter() -> bool:
    try:
        ctypes.CDLL(SECCOMP)
    except OSError:
        return False
    return shutil.which("systemd-analyze") is not None


needs_mdwe = pytest.mark.skipif(not can_deny_writable_code(), reason="needs PR_SET_MDWE, of Linux 6.3")
needs_filters = pytest.mark.skipif(
    not can_filter(), reason="needs libseccomp.so.2, and systemd-analyze, which make integration installs"
)


def list_calls(name: str) -> set[str]:
    """Return the system calls of a group of systemd's, with those of the groups in it."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    )
    calls: set[str] = set()
    for line in done.stdout.splitlines():
        word = line.strip()
        if not line.startswith(" ") or word.startswith("#"):
            continue
        calls |= list_calls(word) if word.startswith("@") else {word}
    return calls


def build_fence() -> Fence:
    """Return what the unit forbids, but for the memory."""
    unit = read_unit(SERVICE)
    assert (unit["NoNewPrivileges"], unit["CapabilityBoundingSet"]) == (["yes"], [""])
    assert unit["SystemCallErrorNumber"] == ["EPERM"]
    calls: set[str] = set()
    for value in unit["SystemCallFilter"]:
        named = set[str]().union(*(list_calls(name) for name in value.removeprefix("~").split()))
        calls = calls - named if value.startswith("~") else calls | named
    (families,) = unit["RestrictAddressFamilies"]
    numbers = [int(getattr(socket, name)) for name in families.split()]
    return {"powerless": True, "calls": sorted(calls), "families": numbers}


def attempt(fence: Fence, what: str) -> str:
    """Return how trying what a fence denies ends behind it; nothing where it is not denied."""
    command = [sys.executable, LAUNCHER, json.dumps(fence), sys.executable, "-c", TRIES[what]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr.strip().rpartition("\n")[2]


@needs_mdwe
def test_memory_that_is_executed_is_denied_behind_the_fence() -> None:
    assert read_unit(SERVICE)["MemoryDenyWriteExecute"] == ["yes"]
    assert attempt({"memory": True}, "memory") == "PermissionError: [Errno 13] Permission denied"
    assert attempt({}, "memory") == ""


@needs_filters
def test_calls_and_families_that_the_unit_leaves_out_are_denied_behind_the_fence() -> None:
    fence = build_fence()
    assert attempt(fence, "calls") == "PermissionError: [Errno 1] Operation not permitted"
    assert "Address family not supported" in attempt(fence, "families")
    assert [attempt({"powerless": True}, what) for what in ("calls", "families")] == ["", ""]


@pytest.mark.slow
@needs_mdwe
def test_the_daemon_with_all_its_sinks_needs_no_memory_that_is_written_and_executed(
    nursery: Nursery,
) -> None:
    serve_behind(nursery, {"memory": True})


@pytest.mark.slow
@needs_filters
def test_the_daemon_with_all_its_sinks_needs_no_call_or_family_that_the_unit_denies(
    nursery: Nursery,
) -> None:
    serve_behind(nursery, build_fence())


def serve_behind(nursery: Nursery, fence: Fence) -> None:
    """Have a daemon behind a fence deliver to every kind of sink, and end."""
    state = nursery.directory / "state"
    state.mkdir(mode=0o700)
    with serve_backends() as backends:
        # By name, so that it is resolved.
        urls = {name: url.replace("127.0.0.1", "localhost") for name, url in backends.urls().items()}
        daemon = DaemonProcess(
            nursery,
            LOCAL + "\n".join(f"[sinks.{name}]\n{build_options(name, url)}" for name, url in urls.items()),
            top=f'state_dir = "{state}"',
            command=(sys.executable, LAUNCHER, json.dumps(fence), sys.executable, "-m", "aiokpl_metricsd"),
            environ=ENVIRON,
        ).wait_until_accepting()
        check_kinds(daemon.config_path)
        check_status(daemon.pid, fence)
        with MetricsClient(daemon.socket_path) as client:
            client.put("UserRecordsPut", 1, stream="orders")
            assert client.flush()
        wait_for(lambda: has_all(backends), "a window in every backend", 60)
        # What nobody has scraped is a warning at the end.
        with open_admin(daemon) as connection:
            wait_for(lambda: "UserRecordsPut_total{" in ask(connection, "/metrics")[1], "a page")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0, daemon.stderr
    assert [line for line in daemon.log if line["level"] != "info"] == []
    assert daemon.count_events() == 1
    assert "UserRecordsPut" in daemon.stdout


def has_all(backends: Backends) -> bool:
    """Tell whether each backend has something."""
    received = (
        backends.cloudwatch.accepted, backends.grpc.points, backends.http.points, backends.datadog.accepted
    )  # fmt: skip
    return all(received)


def check_kinds(path: Path) -> None:
    """Assert that the configuration has a sink of every built-in kind."""
    text = path.read_text(encoding="utf-8")
    assert {name for name in BUILTIN if f'type = "{name}"' in text} == set(BUILTIN)


def check_status(pid: int, fence: Fence) -> None:
    """Assert that the kernel has the daemon behind the fence."""
    status = read_status(pid)
    assert status["NoNewPrivs"] == "1"
    if fence.get("powerless"):
        assert status["CapEff"] == status["CapPrm"] == "0" * 16
    if "calls" in fence:
        assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "2")


def read_status(pid: int) -> Mapping[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
