"""The command line as a user or an operator types it: what it prints, and with which status it ends."""

import os
import re
import signal
import sysconfig
from pathlib import Path

import pytest

from tests.support.child import ROOT, Child, Nursery
from tests.support.daemon import DaemonProcess
from tests.support.polling import wait_for
from tests.support.rows import Total

SCRIPT = Path(sysconfig.get_path("scripts")) / "aiokpl-metricsd"

# The promise; from the daemon's start to the first window on the terminal.
FIRST_WINDOW_S = 15.0

HEADER = re.compile(
    r"^window \d{4}-\d\d-\d\d \d\d:\d\d:\d\d to \d\d:\d\d:\d\d UTC  id [0-9a-f]+-\d+  \d+ series$",
    re.MULTILINE,
)


def run(nursery: Nursery, *arguments: str, environ: dict[str, str] | None = None) -> Child:
    """Run a command to its end."""
    child = nursery.start_python("-m", "aiokpl_metricsd", *arguments, environ=environ)
    child.wait()
    return child


# ---- help and version


def test_the_version_is_printed(nursery: Nursery) -> None:
    child = run(nursery, "--version")
    assert child.poll() == 0
    assert re.fullmatch(r"aiokpl-metricsd \d+\.\d+\.\d+\S*\n", child.stdout)
    assert child.stderr == ""


def test_the_help_names_every_option_and_command(nursery: Nursery) -> None:
    child = run(nursery, "--help")
    assert child.poll() == 0
    for word in ("--config", "--log-format", "--log-level", "--version", "check", "send", "status"):
        assert word in child.stdout
    assert child.stderr == ""


@pytest.mark.parametrize(
    ("command", "option"), [("check", "--config"), ("send", "--dim"), ("status", "--json")]
)
def test_each_command_has_help_of_its_own(nursery: Nursery, command: str, option: str) -> None:
    child = run(nursery, command, "--help")
    assert child.poll() == 0
    assert option in child.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--nope",), ("serve",), ("--config",), ("--log-format", "xml"), ("check", "--nope"), ("send",)],
)
def test_what_is_no_option_or_command_ends_with_usage_and_status_2(
    nursery: Nursery, arguments: tuple[str, ...]
) -> None:
    child = run(nursery, *arguments)
    assert child.poll() == 2
    assert "Error: " in child.stderr
    assert "Traceback" not in child.stderr
    assert child.stdout == ""


def test_the_installed_script_is_the_same_program(nursery: Nursery) -> None:
    child = nursery.start([str(SCRIPT), "--version"])
    assert child.wait() == 0
    assert child.stdout == run(nursery, "--version").stdout
    daemon = DaemonProcess(nursery, command=(str(SCRIPT),)).wait_until_listening()
    assert daemon.stop() == 0
    assert daemon.find_log("stopped")


# ---- check


def check(nursery: Nursery, text: str) -> Child:
    """Check a configuration."""
    path = nursery.directory / "sinks.toml"
    path.write_text(text, encoding="utf-8")
    return run(nursery, "check", "--config", str(path))


def test_a_good_file_is_checked_and_nothing_is_opened(nursery: Nursery) -> None:
    directory = nursery.directory
    text = (
        f'interval_s = 10\n[ingest]\nsocket = "{directory}/metrics.sock"\n'
        f'[sinks.file]\ntype = "jsonl"\npath = "{directory}/windows.jsonl"\n'
        '[sinks.screen]\ntype = "console"\n'
    )
    child = check(nursery, text)
    assert child.poll() == 0, child.stderr
    assert child.stdout == "ok: windows of 10 s, sinks: file (jsonl), screen (console)\n"
    assert child.stderr == ""
    assert not (directory / "metrics.sock").exists()
    assert not (directory / "windows.jsonl").exists()


def test_without_a_file_the_embedded_default_is_checked(nursery: Nursery) -> None:
    child = run(nursery, "check")
    assert child.poll() == 0
    assert child.stdout == "ok: windows of 5 s, sinks: console (console)\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("interval_s = 5\n", ("no sink",)),
        ("interval_s = = 5\n", ("line 1, column 14",)),
        ('interval_s = "5"\n[sinks.a]\ntype = "null"\n', ("interval_s", "whole number")),
        ("interval_s = 0\n", ("interval_s", "1")),
        ('intervall_s = 5\n[sinks.a]\ntype = "null"\n', ("intervall_s", "interval_s")),
        ('[ingest]\nmode = "rw"\n[sinks.a]\ntype = "null"\n', ("[ingest] mode", "octal")),
        ('[limits]\nmax_series = true\n[sinks.a]\ntype = "null"\n', ("[limits] max_series",)),
        ('[metrics.x]\nkind = "speed"\n[sinks.a]\ntype = "null"\n', ("[metrics.x] kind",)),
        ('[sinks.a]\ntype = "nil"\n', ("[sinks.a] type", '"nil"')),
        ('[sinks.a]\ntype = "jsonl"\n', ("[sinks.a] path",)),
        ('[sinks.a]\ntype = "null"\ncolour = 1\n', ("[sinks.a] colour",)),
        ('[sinks.a]\ntype = "jsonl"\npath = "${NOT_THERE}"\n', ("[sinks.a] path", "NOT_THERE")),
        ('[sinks.a]\ntype = "jsonl"\npath = "x"\nkeep = -1\n', ("[sinks.a]", "keep")),
        ('[sinks.a]\ntype = "not_installed:Sink"\n', ("[sinks.a] type", "not_installed")),
        ('[sinks.a]\ntype = "json:Sink"\n', ("[sinks.a] type", "Sink")),
    ],
)
def test_each_mistake_is_one_line_with_file_table_and_key_and_status_2(
    nursery: Nursery, text: str, words: tuple[str, ...]
) -> None:
    child = check(nursery, text)
    assert child.poll() == 2
    assert child.stdout == ""
    (line,) = child.stderr.splitlines()
    assert line.startswith(f"{nursery.directory}/sinks.toml: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "text",
    [
        '[sinks.a]\ntype = "jsonl"\n',
        '[sinks.a]\ntype = "prometheus"\n[sinks.b]\ntype = "prometheus"\nprefix = "b_"\n',
        '[sinks.a]\ntype = "prometheus"\n[sinks.b]\ntype = "prometheus"\nidle_s = -1.0\n',
        'state_dir = "/dev/null/state"\n[sinks.a]\ntype = "null"\n',
        'state_dir = "/dev/\\u0000"\n[sinks.a]\ntype = "null"\n',
        '[ingest]\nsocket = "/tmp/\\u0000"\n[sinks.a]\ntype = "null"\n',
        f'[ingest]\nsocket = "/tmp/{"s" * 100}"\n[sinks.a]\ntype = "null"\n',
        '[ingest]\ngroup = "no-such-group"\n[sinks.a]\ntype = "null"\n',
    ],
)
def test_the_daemon_refuses_what_check_refuses_in_the_same_words(nursery: Nursery, text: str) -> None:
    checked = check(nursery, text)
    environ = {"AIOKPL_METRICSD_SOCKET": str(nursery.directory / "metrics.sock")}
    started = run(nursery, "--config", str(nursery.directory / "sinks.toml"), environ=environ)
    assert started.poll() == checked.poll() == 2
    (line,) = checked.stderr.splitlines()
    # What comes before it is the log.
    assert started.stderr.splitlines()[-1] == line
    assert "Traceback" not in started.stderr


def test_without_aiohttp_a_sink_that_is_scraped_is_refused_and_the_extra_is_named(nursery: Nursery) -> None:
    hiding = nursery.directory / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text('import sys\nsys.modules["aiohttp"] = None\n')
    path = nursery.directory / "sinks.toml"
    path.write_text('[sinks.page]\ntype = "prometheus"\n')
    environ = {
        "AIOKPL_METRICSD_SOCKET": str(nursery.directory / "metrics.sock"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(hiding), os.environ.get("PYTHONPATH")))),
    }
    for command in (("check",), ()):
        child = run(nursery, *command, "--config", str(path), environ=environ)
        assert child.poll() == 2
        assert child.stdout == ""
        assert child.stderr.splitlines()[-1] == (
            f"{path}: [sinks.page]: its page cannot be served: HTTP needs the package aiohttp; "
            "install aiokpl-metricsd[prometheus]"
        )


# ---- send


def send(nursery: Nursery, socket_path: Path, *arguments: str) -> Child:
    """Send an event."""
    return run(nursery, "send", *arguments, "--socket", str(socket_path))


def test_events_that_are_sent_are_in_the_window(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    for arguments in (
        ("deployments",),
        ("deployments", "2"),
        ("backup.bytes", "1e9", "--unit", "bytes", "--dim", "host=a", "--dim", "path=/x=y"),
        ("temperature", "-3.5", "--kind", "gauge"),
        ("duration", "12", "--kind", "histogram", "--unit", "ms"),
    ):
        child = send(nursery, daemon.socket_path, *arguments)
        assert (child.poll(), child.stdout, child.stderr) == (0, "", "")
    assert daemon.stop() == 0
    assert daemon.totals() == {
        ("deployments", ()): Total(2, 3, 1, 2),
        ("backup.bytes", (("host", "a"), ("path", "/x=y"))): Total(1, 1e9, 1e9, 1e9),
        ("temperature", ()): Total(1, -3.5, -3.5, -3.5),
        ("duration", ()): Total(1, 12, 12, 12),
    }
    forms = {row.name: (row.kind, row.unit) for row in daemon.rows()}
    assert forms == {
        "deployments": ("counter", None),
        "backup.bytes": ("counter", "bytes"),
        "temperature": ("gauge", None),
        "duration": ("histogram", "ms"),
    }


def test_the_socket_of_the_environment_is_found(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    environ = {"AIOKPL_METRICSD_SOCKET": str(daemon.socket_path)}
    assert run(nursery, "send", "deployments", environ=environ).poll() == 0
    assert daemon.stop() == 0
    assert daemon.totals() == {("deployments", ()): Total(1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("name", "much"), "valid number"),
        (("name", "nan"), "value_not_finite"),
        (("name", "1", "--dim", "host"), "KEY=VALUE"),
        (("name", "1", "--dim", "=a"), "dimension_empty"),
        (("name", "1", "--dim", "a=1", "--dim", "a=2"), "dimension_duplicate"),
        (("n" * 256,), "name_too_long"),
        (("",), "name_empty"),
        (("name", "1", "--kind", "speed"), "speed"),
        (("name", "1", "--unit", "u" * 64), "unit_too_long"),
        (("name", "1", "--knd", "gauge"), "--knd"),
        (("--nope",), "--nope"),
    ],
)
def test_what_the_daemon_would_refuse_is_refused_before_it_is_sent(
    nursery: Nursery, arguments: tuple[str, ...], words: str
) -> None:
    child = send(nursery, nursery.directory / "nowhere.sock", *arguments)
    assert child.poll() == 2
    assert words in child.stderr
    assert "Traceback" not in child.stderr


# What the shell hands over as a byte that is no UTF-8 is a lone surrogate to Python.
NO_TEXT = "a\udcff"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((NO_TEXT,), ("'a\\udcff' is not UTF-8", "write")),
        (("name", "1", "--dim", f"{NO_TEXT}=b"), ("'a\\udcff' is not UTF-8",)),
        (("name", "1", "--dim", f"host={NO_TEXT}"), ("'a\\udcff' is not UTF-8",)),
        (("name", "1", "--unit", NO_TEXT), ("'a\\udcff' is not UTF-8",)),
        (
            ("name", "1", *(word for key in range(30) for word in ("--dim", f"{key}={'€' * 1_000}"))),
            ("at most 65536", "shorten its dimensions"),
        ),
    ],
    ids=["name", "key", "value", "unit", "size"],
)
def test_what_no_datagram_can_carry_is_one_line_that_says_what_to_do(
    nursery: Nursery, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    child = send(nursery, nursery.directory / "nowhere.sock", *arguments)
    assert child.poll() == 2
    assert child.stdout == ""
    (line,) = child.stderr.splitlines()
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "arguments",
    [("name", NO_TEXT), ("name", "1", "--kind", NO_TEXT), (f"-{NO_TEXT}",), ("name", "--dim", NO_TEXT)],
)
def test_no_mistake_in_an_argument_that_is_not_utf_8_is_a_traceback(
    nursery: Nursery, arguments: tuple[str, ...]
) -> None:
    child = send(nursery, nursery.directory / "nowhere.sock", *arguments)
    assert child.poll() == 2
    assert "Error: " in child.stderr
    assert "Traceback" not in child.stderr


def test_a_socket_whose_path_is_not_utf_8_is_a_path_like_any_other(nursery: Nursery) -> None:
    child = send(nursery, nursery.directory / NO_TEXT, "name")
    assert child.poll() == 1
    (line,) = child.stderr.splitlines()
    assert line.endswith("No such file or directory")


def test_without_a_daemon_an_event_is_not_sent_and_the_path_is_named(nursery: Nursery) -> None:
    path = nursery.directory / "nowhere.sock"
    child = send(nursery, path, "name")
    assert child.poll() == 1
    (line,) = child.stderr.splitlines()
    assert line == f"no daemon took the event: {path}: No such file or directory"


# ---- the log


def test_the_log_is_for_people_unless_it_is_asked_for_as_json(nursery: Nursery) -> None:
    environ = {"AIOKPL_METRICSD_SOCKET": str(nursery.directory / "text.sock")}
    daemon = nursery.start_python("-m", "aiokpl_metricsd", environ=environ)
    wait_for(lambda: "listening" in daemon.stderr, "the log")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    first = daemon.stderr.splitlines()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO listening socket=\S+/text\.sock", first)
    as_json = DaemonProcess(nursery).wait_until_listening()
    assert as_json.stop() == 0
    assert [line["message"] for line in as_json.log] == ["listening", "stopped"]
    assert {line["level"] for line in as_json.log} == {"info"}


def test_the_log_leaves_out_what_is_below_its_level(nursery: Nursery) -> None:
    path = nursery.directory / "quiet.sock"
    environ = {"AIOKPL_METRICSD_SOCKET": str(path)}
    daemon = nursery.start_python("-m", "aiokpl_metricsd", "--log-level", "error", environ=environ)
    wait_for(path.exists, "the socket")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert daemon.stderr == ""


# ---- without a configuration


def test_the_embedded_default_prints_a_table_in_time(nursery: Nursery) -> None:
    path = nursery.directory / "default.sock"
    daemon = nursery.start_python("-m", "aiokpl_metricsd", environ={"AIOKPL_METRICSD_SOCKET": str(path)})
    wait_for(path.exists, "the socket")
    arguments = ("RequestTime", "12.5", "--dim", "stream=orders")
    assert send(nursery, path, *arguments).poll() == 0
    wait_for(lambda: HEADER.search(daemon.stdout), "the first window", FIRST_WINDOW_S)
    daemon.send_signal(signal.SIGINT)
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.stderr
    header, columns, row = daemon.stdout.splitlines()[:3]
    assert HEADER.match(header)
    assert columns.split() == [
        *("NAME", "DIMENSIONS", "KIND", "UNIT", "COUNT", "SUM", "MIN", "MAX", "P50", "P90", "P99")
    ]
    assert row.split()[:8] == ["RequestTime", "stream=orders", "histogram", "ms", "1", "12.5", "12.5", "12.5"]


def test_the_demo_prints_windows_in_time_and_leaves_nothing_behind(nursery: Nursery) -> None:
    demo = nursery.start_python(str(ROOT / "deploy" / "demo" / "run.py"))
    children: set[int] = set()
    try:
        wait_for(lambda: len(list_children(demo)) == 2, "daemon and producer")
        children |= list_children(demo)
        wait_for(lambda: HEADER.search(demo.stdout), "the first window", FIRST_WINDOW_S)
        wait_for(lambda: "UserRecordsReceived" in demo.stdout, "its rows")
        (socket_path,) = re.findall(r"listening socket=(\S+)", demo.stderr)
        assert Path(socket_path).exists()
        demo.send_signal(signal.SIGINT)
        assert demo.wait() == 0
        assert not [pid for pid in children if is_alive(pid)]
        assert not Path(socket_path).parent.exists()
        assert "Traceback" not in demo.stderr
    finally:
        demo.end()
        for pid in filter(is_alive, children):
            os.kill(pid, signal.SIGKILL)


def list_children(child: Child) -> set[int]:
    """Return the processes that a process has started and that still run."""
    path = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    return {int(pid) for pid in path.read_text(encoding="ascii").split()}


def is_alive(pid: int) -> bool:
    """Tell whether a process is there."""
    return Path(f"/proc/{pid}").exists()
