"""HTTP on the real process: its sockets, what it says of loss, and that nobody else notices it."""

import http.client
import json
import re
import socket
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as parse_text

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.admin import AdminConnection, admin_of, ask, open_admin
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import TIMEOUT_S, wait_for
from tests.support.rows import check_balance

PAGE = '[sinks.page]\ntype = "prometheus"\n'


def read_samples(page: str) -> dict[str, float]:
    """Return the samples by name; of those with labels, their sum."""
    found: dict[str, float] = {}
    for family in parse_text(page):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_the_page_shows_what_was_sent_and_what_was_lost(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, PAGE, interval_s=60).wait_until_listening()
    send_datagram(daemon.socket_path, b"garbage")
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("a.b", 2.5, 0.0)] * 4)))
    connection = AdminConnection(admin_of(daemon))
    wait_for(lambda: "a_b_total" in ask(connection, "/metrics")[1], "the series")
    samples = read_samples(ask(connection, "/metrics")[1])
    assert samples["a_b_total"] == 10.0
    assert samples["metricsd_events_decoded_total"] == 4.0
    assert samples["metricsd_datagrams_rejected_total"] == 1.0
    status, body = ask(connection, "/snapshot?name=a.b")
    assert status == 200
    assert [row["sum"] for row in json.loads(body)["series"]] == [10.0]
    assert ask(connection, "/readyz") == (200, "ready\n")
    connection.close()
    assert daemon.stop() == 0
    assert not admin_of(daemon).exists()
    check_balance(daemon.ledger)


UNREAD = "what came after the last scrape is "


def find_unread(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """Return what a daemon said at its end of what nobody has scraped."""
    return [line for line in daemon.log if line["message"].startswith(UNREAD)]


def send_and_wait(daemon: DaemonProcess, connection: AdminConnection, count: int) -> None:
    """Send events, and see in the ledger that they have come, which is no scrape."""
    taken = json.loads(ask(connection, "/ledger")[1])["ingest"]["ledger"]["events_decoded"]
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("a", 1.0, 0.0)] * count)))

    def has_come() -> bool:
        ledger = json.loads(ask(connection, "/ledger")[1])["ingest"]["ledger"]
        return bool(ledger["events_decoded"] == taken + count)

    wait_for(has_come, "the events")


def test_at_the_end_it_is_said_what_no_scrape_has_seen(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, PAGE, interval_s=3_600).wait_until_listening()
    with open_admin(daemon) as connection:
        send_and_wait(daemon, connection, 4)
        assert read_samples(ask(connection, "/metrics")[1])["a_total"] == 4.0
        send_and_wait(daemon, connection, 3)
    assert daemon.stop() == 0
    (line,) = find_unread(daemon)
    assert line["message"] == f"{UNREAD}lost"
    assert (line["level"], line["sinks"], line["events"], line["snapshots"]) == ("warning", ["page"], 3, 1)
    assert 0.0 <= line["last_scrape_age_s"] < TIMEOUT_S
    assert daemon.log[-1]["message"] == "stopped"


def test_where_nobody_ever_scrapes_all_of_it_is_said_and_where_it_is_kept(nursery: Nursery) -> None:
    top = f'state_dir = "{nursery.directory}/state"'
    daemon = DaemonProcess(nursery, PAGE, top=top, interval_s=3_600).wait_until_listening()
    with open_admin(daemon) as connection:
        send_and_wait(daemon, connection, 2)
    assert daemon.stop() == 0
    (line,) = find_unread(daemon)
    assert line["message"] == f"{UNREAD}on the page of the next daemon with this state directory"
    assert (line["last_scrape_age_s"], line["events"]) == (None, 2)


def test_what_was_scraped_last_is_not_said_and_neither_is_what_no_page_has(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, PAGE, interval_s=3_600).wait_until_listening()
    with open_admin(daemon) as connection:
        send_and_wait(daemon, connection, 2)
        assert read_samples(ask(connection, "/metrics")[1])["a_total"] == 2.0
    assert daemon.stop() == 0
    assert find_unread(daemon) == []
    without = DaemonProcess(nursery, name="without").wait_until_listening()
    with open_admin(without) as connection:
        send_and_wait(without, connection, 2)
    assert without.stop() == 0
    assert find_unread(without) == []


def test_of_windows_longer_than_the_daemons_a_scrape_sees_the_closed_ones_alone(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, f"{PAGE}interval_s = 7200\n", interval_s=3_600).wait_until_listening()
    with open_admin(daemon) as connection:
        send_and_wait(daemon, connection, 2)
        assert "a_total" not in ask(connection, "/metrics")[1]
    assert daemon.stop() == 0
    (line,) = find_unread(daemon)
    assert (line["events"], line["snapshots"]) == (0, 1)


def test_who_only_connects_does_not_keep_the_daemon_from_ending(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, PAGE).wait_until_listening()
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(admin_of(daemon)))
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.stderr


def test_tcp_is_served_where_it_is_asked_for(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, '[http]\nlisten = "127.0.0.1:0"\n').wait_until_listening()
    (line,) = daemon.find_log("HTTP waits")
    connection = http.client.HTTPConnection(line["listen"], timeout=TIMEOUT_S)
    assert ask(connection, "/healthz") == (200, "ok\n")
    connection.close()
    assert daemon.stop() == 0


def test_an_address_that_is_taken_is_one_line_and_status_1(nursery: Nursery) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = DaemonProcess(nursery, f'[http]\nlisten = "127.0.0.1:{port}"\n')
        assert daemon.wait() == 1
    assert re.fullmatch(rf"\[http\] listen: cannot listen on 127\.0\.0\.1:{port}: .+\n", daemon.stderr)
    assert not daemon.socket_path.exists()


def test_aiohttp_is_not_imported_before_somebody_asks(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, PAGE).wait_until_listening()
    maps = Path(f"/proc/{daemon.pid}/maps")
    assert "aiohttp" not in maps.read_text()
    connection = AdminConnection(admin_of(daemon))
    assert ask(connection, "/healthz")[0] == 200
    assert "aiohttp" in maps.read_text()
    connection.close()
    assert daemon.stop() == 0


def wait_for_more_rows(daemon: DaemonProcess, known: int) -> None:
    wait_for(lambda: len(daemon.rows()) > known, "a window")


def test_the_daemons_own_counters_reach_the_sinks_and_add_up(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, "[self_metrics]\nenabled = true\n").wait_until_listening()
    for _ in range(3):
        send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("m", 1.0, 0.0)] * 2)))
        wait_for_more_rows(daemon, len(daemon.rows()))
    assert daemon.stop() == 0
    own = {name: total.sum for (name, _), total in daemon.totals().items()}
    assert own["metricsd_events_decoded_total"] == own["m"] == 6.0
    assert own["metricsd_datagrams_received_total"] == 3.0


def test_with_a_state_directory_the_counters_go_on_and_each_rise_is_handed_over_once(
    nursery: Nursery,
) -> None:
    top = f'state_dir = "{nursery.directory}/state"'
    for life in (1, 2):
        daemon = DaemonProcess(nursery, "[self_metrics]\nenabled = true\n", top=top).wait_until_listening()
        known = len(daemon.rows()) if daemon.windows_path.exists() else 0
        send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("m", 1.0, 0.0)] * 2)))
        wait_for_more_rows(daemon, known)
        with open_admin(daemon) as connection:
            _, page = ask(connection, "/metrics")
        assert read_samples(page)["metricsd_events_decoded_total"] == 2.0 * life
        assert daemon.stop() == 0
    own = {name: total.sum for (name, _), total in daemon.totals().items()}
    assert own["metricsd_events_decoded_total"] == own["m"] == 4.0


def test_two_sinks_for_one_page_are_refused(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, PAGE + '[sinks.other]\ntype = "prometheus"\n')
    assert daemon.wait() == 2
    assert daemon.stderr.endswith("[sinks] page and other: one page shows one sink; remove the others\n")
