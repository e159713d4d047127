"""`status` asks the real daemon: what came in, what was lost, what waits; and says so when nobody answers."""

import json
import sys
from typing import Any

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.admin import ask, open_admin
from tests.support.child import Child, Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.lane import LaneProducer, encode_columns
from tests.support.polling import wait_for

# Of producer 7, whose id nobody is shown: sha256 of its eight bytes.
HASH_OF_7 = "a3eb8db89fc5"

FAILING = '[sinks.broken]\ntype = "tests.support.acme_sinks:Failing"\n'

# A daemon where aiohttp is not installed.
WITHOUT_HTTP = """
import sys
sys.modules["aiohttp"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "aiohttp" else find(name, *rest)
from aiokpl_metricsd.__main__ import main
main()
"""


def ask_status(nursery: Nursery, *arguments: str, environ: dict[str, str] | None = None) -> Child:
    child = nursery.start_python("-m", "aiokpl_metricsd", "status", *arguments, environ=environ)
    child.wait()
    return child


def read_status(nursery: Nursery, daemon: DaemonProcess) -> dict[str, Any]:
    child = ask_status(nursery, "--json", "--socket", str(daemon.socket_path))
    assert (child.poll(), child.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(child.stdout)
    return answer


def read_ledger(daemon: DaemonProcess) -> dict[str, Any]:
    with open_admin(daemon) as connection:
        status, body = ask(connection, "/ledger")
    assert status == 200
    answer: dict[str, Any] = json.loads(body)
    return answer


def check_balances(answer: dict[str, Any]) -> None:
    balances = [*answer["ingest"]["balance"].values()]
    balances += [each["balance"] for each in answer["producers"]["listed"]]
    balances += [sink["balance"] for sink in answer["sinks"].values()]
    assert not any(balances), answer


def test_a_daemon_that_lost_nothing_says_so(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("m", 1.0, 0.0)] * 3)))
    wait_for(lambda: read_ledger(daemon)["sinks"]["windows"]["ledger"]["delivered"], "a delivered window")
    answer = read_status(nursery, daemon)
    check_balances(answer)
    assert answer["losses"] == []
    assert answer["socket"] == str(daemon.socket_path)
    assert answer["ingest"]["ledger"]["events_closed"] == 3
    assert answer["journal"]["state"] == answer["outbox"]["state"] == "memory"
    # Found where clients find it.
    environ = {"AIOKPL_METRICSD_SOCKET": str(daemon.socket_path)}
    child = ask_status(nursery, environ=environ)
    assert (child.poll(), child.stderr) == (0, "")
    lines = child.stdout.splitlines()
    assert lines[0].startswith(f"aiokpl-metricsd {answer['version']}  {daemon.socket_path}  started ")
    assert lines[2] == "nothing lost"
    assert "events     3 decoded = 0 open + 3 closed + 0 refused" in lines
    assert daemon.stop() == 0


def test_a_gap_is_missing_rejected_datagrams_and_a_failing_sink_are_shown(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, FAILING).wait_until_listening()
    send_datagram(daemon.socket_path, encode_columns(7, 1, 0, [1.0, 2.0]))
    # Ten events are in frames that never came.
    send_datagram(daemon.socket_path, encode_columns(7, 4, 12, [3.0]))
    send_datagram(daemon.socket_path, encode_columns(7, 4, 12, [3.0]))
    send_datagram(daemon.socket_path, b"garbage")
    wait_for(lambda: read_ledger(daemon)["sinks"]["broken"]["ledger"]["failures"], "a failure")
    answer = read_status(nursery, daemon)
    check_balances(answer)
    (producer,) = answer["producers"]["listed"]
    assert producer["id"] == HASH_OF_7
    assert (producer["sent"], producer["received"], producer["missing"]) == (13, 3, 10)
    assert producer["repeated"] == 1
    assert [(loss["column"], loss["count"]) for loss in answer["losses"]] == [
        ("datagrams_rejected", 1),
        ("events_missing", 10),
    ]
    broken, windows = answer["sinks"]["broken"], answer["sinks"]["windows"]
    assert "no backend, for the time number" in broken["ledger"]["last_error"]
    assert (broken["ledger"]["waiting"], broken["queue_windows"]) == (1, 1)
    assert (windows["ledger"]["delivered"], windows["ledger"]["last_error"]) == (1, "")
    child = ask_status(nursery, "--socket", str(daemon.socket_path))
    lines = child.stdout.splitlines()
    assert lines[2] == "DATA LOSS"
    assert lines[5].split()[:2] == ["events_missing", "10"]
    assert any(line.startswith(HASH_OF_7) for line in lines)
    assert any(line.startswith("broken ") and "no backend, for the time" in line for line in lines)
    assert daemon.stop() == 0


def test_a_producer_on_a_lane_is_shown_with_what_it_says_it_is(nursery: Nursery) -> None:
    top = f'state_dir = "{nursery.directory}/state"'
    daemon = DaemonProcess(nursery, top=top, interval_s=3600).wait_until_listening()
    with LaneProducer(daemon.socket_path, 7) as producer:
        producer.say_hello()
        producer.read_ack()
        producer.send(1.0, 2.0)
        producer.wait_until_acknowledged()
        answer = read_status(nursery, daemon)
    check_balances(answer)
    (listed,) = answer["producers"]["listed"]
    assert (listed["id"], listed["lanes"], listed["software"], listed["received"]) == (
        HASH_OF_7,
        1,
        "by hand",
        2,
    )
    assert answer["ingest"]["lanes_open"] == 1
    assert (answer["journal"]["state"], answer["outbox"]["state"]) == ("journaled", "stored")
    assert answer["journal"]["size_bytes"] > 0
    assert daemon.stop() == 0


def test_without_a_daemon_that_is_one_line_and_status_1(nursery: Nursery) -> None:
    path = nursery.directory / "nowhere.sock"
    for arguments in ((), ("--json",)):
        child = ask_status(nursery, *arguments, "--socket", str(path))
        assert (child.poll(), child.stdout) == (1, "")
        assert child.stderr == f"no daemon listens at {path}\n"


def test_of_a_daemon_without_http_it_says_what_to_install(nursery: Nursery) -> None:
    command = (sys.executable, "-c", WITHOUT_HTTP)
    daemon = DaemonProcess(nursery, command=command).wait_until_listening()
    child = ask_status(nursery, "--socket", str(daemon.socket_path))
    assert (child.poll(), child.stdout) == (1, "")
    (line,) = child.stderr.splitlines()
    assert line.startswith(f"{daemon.socket_path}: the daemon serves no admin.sock; install ")
    assert daemon.stop() == 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_without_unicode_is_shown_all_the_same(nursery: Nursery, encoding: str) -> None:
    daemon = DaemonProcess(nursery, FAILING.replace("broken", '"gebrüder"')).wait_until_listening()
    child = ask_status(nursery, "--socket", str(daemon.socket_path), environ={"PYTHONIOENCODING": encoding})
    assert (child.poll(), child.stderr) == (0, "")
    assert ("gebrüder" if encoding == "utf-8" else "gebr\\xfcder") in child.stdout
    assert daemon.stop() == 0
