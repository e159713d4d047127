"""Every fence of docs/sinks.md is a file that works: the sinks in a real daemon, the suites under pytest."""

import re
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import msgspec
import pytest

from aiokpl_metrics_protocol import (
    Column,
    ColumnsFrame,
    EventsFrame,
    Folded,
    FoldedFrame,
    MetricEvent,
    Series,
    Totals,
    encode,
    encode_series,
)
from tests.support.child import ROOT, Nursery, add_import_path
from tests.support.daemon import DaemonProcess, send_datagram

PAGE = ROOT / "docs" / "sinks.md"
FENCE = re.compile(
    r"^```(?P<language>\w+)\n(?:# (?P<name>\S+)\n)?(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
NO_RECORD = "the sink has no record"
NO_STATE = "the sink has no dump_state and load_state"

NUMBERED = """
[sinks.numbered]
type = "acme_numbered:NumberedSink"
path = "${RUN_DIR}/numbered.lines"
"""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """The fences as files, in a directory short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="metricsd-") as path:
        for fence in FENCE.finditer(PAGE.read_text(encoding="utf-8")):
            if fence["name"]:
                Path(path, fence["name"]).write_text(fence["text"], encoding="utf-8")
        yield Path(path)


@pytest.fixture
def nursery(directory: Path) -> Iterator[Nursery]:
    nursery = Nursery(directory)
    try:
        yield nursery
    finally:
        nursery.end()


class Agent(ThreadingTCPServer):
    """The Acme agent, which takes everything."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), AgentHandler)


class AgentHandler(StreamRequestHandler):
    """Answers one line."""

    def handle(self) -> None:
        assert isinstance(self.server, Agent)
        self.server.requests.append(msgspec.json.decode(self.rfile.readline(), type=dict[str, Any]))
        self.wfile.write(b'{"status": "ok"}\n')


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as agent:
        thread = Thread(target=agent.serve_forever, args=(0.01,))
        thread.start()
        yield agent
        agent.shutdown()
        thread.join()


def read_lines(path: Path) -> list[list[Any]]:
    return [msgspec.json.decode(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_fence_of_python_and_toml_is_a_file() -> None:
    fences = list(FENCE.finditer(PAGE.read_text(encoding="utf-8")))
    names = [fence["name"] for fence in fences if fence["language"] in {"python", "toml"}]
    assert all(name and name.endswith((".py", ".toml")) for name in names), names
    assert len(set(names)) == len(names)
    # What is run below is all of it.
    assert {name for name in names if name.endswith(".toml")} == {"lines.toml", "busiest.toml", "agent.toml"}
    tests = [name for name in names if name.startswith("test_")]
    assert tests == ["test_acme_lines.py", "test_acme_agent.py"]


def test_the_sinks_pass_the_contract_suite_outside_of_this_repository(nursery: Nursery) -> None:
    report = nursery.directory / "report.xml"
    files = [str(path) for path in sorted(nursery.directory.glob("test_*.py"))]
    options = [
        "-q",
        "-W",
        "error",
        "-p",
        "no:asyncio",
        "-p",
        "no:cacheprovider",
        f"--rootdir={nursery.directory}",
    ]
    child = nursery.start_python("-m", "pytest", *options, f"--junitxml={report}", *files, name="pytest")
    assert child.wait(100.0) == 0, child.stdout
    skipped: defaultdict[str, Counter[str]] = defaultdict(Counter)
    passed: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest's own
        kind = case.attrib["classname"].rpartition(".")[2]
        skip = case.find("skipped")
        if skip is None:
            passed[kind] += 1
        else:
            skipped[kind][skip.attrib["message"]] += 1
    # The server's stand-in can do everything, so everything was asked.
    assert skipped["TestAcmeSink"] == {NO_RECORD: 2, NO_STATE: 2}
    assert NO_RECORD in skipped["TestLinesSink"]
    assert NO_RECORD not in skipped["TestBusiestSink"]
    assert NO_STATE not in skipped["TestNumberedSink"]
    assert passed["TestLinesSink"] < passed["TestBusiestSink"] < passed["TestAcmeSink"]


def test_the_sinks_work_in_a_daemon(nursery: Nursery, agent: Agent) -> None:
    (nursery.directory / "acme-key").write_text("s3cret\n")
    config = "".join(
        (nursery.directory / name).read_text() for name in ("lines.toml", "busiest.toml", "agent.toml")
    )
    environ = {
        **add_import_path(nursery.directory),
        "RUN_DIR": str(nursery.directory),
        "ACME_PORT": str(agent.server_address[1]),
    }
    daemon = DaemonProcess(nursery, config, interval_s=3600, environ=environ).wait_until_listening()
    second = int(time.time())
    put = encode_series(Series("UserPut", dimensions=(("stream", "orders"),)))
    frames: list[ColumnsFrame | EventsFrame | FoldedFrame] = [
        # Five events of one second in a column; two rows, one of them without a time; ten that came folded.
        ColumnsFrame(1, 1, Totals(), [Column(put, second, 2.0, 5)]),
        EventsFrame([MetricEvent("Other", 1.5, second + 0.25), MetricEvent("Other", 1.5, 0.0)]),
        FoldedFrame(1, 2, Totals(), [Folded(put, second, 10, 20.0, 2.0, 2.0, 2.0, second)]),
    ]
    for frame in frames:
        send_datagram(daemon.socket_path, encode(frame))
    assert daemon.stop() == 0, daemon.stderr

    series = {("UserPut", "orders"): (15, 30.0), ("Other", None): (2, 3.0)}
    lines = read_lines(nursery.directory / "metrics.lines")
    assert {(name, dims.get("stream")): (count, total) for _, name, dims, count, total in lines} == series
    (busiest,) = read_lines(nursery.directory / "busiest.lines")
    # All are in its window, and those that had values of their own were recorded.
    assert (busiest[1], busiest[3], busiest[5]) == ("UserPut", 15, 5)
    (request,) = agent.requests
    assert request["key"] == "s3cret"
    assert {(name, value) for name, _, _, value in request["points"]} == {("UserPut", 30.0), ("Other", 3.0)}
    last = daemon.log[-1]
    assert last["events_folded"] == 10
    assert (last["sinks"]["busiest"]["recorded"], last["sinks"]["busiest"]["withheld"]) == (5, 0)


def test_what_a_sink_remembers_goes_on_after_a_restart(nursery: Nursery) -> None:
    environ = {**add_import_path(nursery.directory), "RUN_DIR": str(nursery.directory)}
    top = f'state_dir = "{nursery.directory}/state"'
    for number in (1, 2):
        daemon = DaemonProcess(
            nursery, NUMBERED, top=top, interval_s=3600, name=f"life-{number}", environ=environ
        ).wait_until_listening()
        send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("Put", 1.0, 0.0)])))
        assert daemon.stop() == 0, daemon.stderr
    assert [line[-1] for line in read_lines(nursery.directory / "numbered.lines")] == [1, 2]


def test_an_option_that_a_sink_does_not_have_ends_the_start(nursery: Nursery) -> None:
    config = (nursery.directory / "lines.toml").read_text() + "pth = 1\n"
    daemon = DaemonProcess(nursery, config, environ=add_import_path(nursery.directory))
    assert daemon.wait() == 2
    (line,) = daemon.stderr.splitlines()
    assert "[sinks.lines] pth" in line
