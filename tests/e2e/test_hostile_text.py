"""Names and dimensions that a terminal, a log or a page would obey come out as text."""

import subprocess
import sys

import msgspec
from prometheus_client.parser import text_string_to_metric_families as parse_text

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.admin import ask, open_admin
from tests.support.child import ROOT, Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import TIMEOUT_S, wait_for

# What clears a screen, sets a title, forges a line, ends a label, and turns the reading direction.
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07",
    'a"} 1e9\nforged_total{x="y',
    "2026-12-01T00:00:00.000Z ERROR forged\r\n",
    "back\\slash \\n \x00 \x7f \x9b31m \u202e \u2028 end",
)
SINKS = """
[sinks.table]
type = "console"
[sinks.page]
type = "prometheus"
[sinks.broken]
type = "tests.support.acme_sinks:Failing"
[limits]
max_series = 6
"""

ALLOWED = {"\n"}


def find_obeyed(text: str) -> set[str]:
    """Return the characters of an output that are none to be read."""
    return {letter for letter in text if not letter.isprintable()} - ALLOWED


def test_no_output_has_a_character_that_would_be_obeyed_and_the_values_are_right(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, SINKS, interval_s=1).wait_until_listening()
    events = [MetricEvent(f"n{text}", 3.0, 0.0, ((f"k{text}", f"v{text}"),)) for text in HOSTILE]
    # Past max_series, so that the log names them.
    events += [MetricEvent(f"o{text}", 1.0, 0.0) for text in HOSTILE]
    send_datagram(daemon.socket_path, encode(EventsFrame(events)))
    wait_for(
        lambda: daemon.find_log("more series than max_series: new ones share an overflow series"), "a log"
    )
    wait_for(lambda: daemon.stdout.count("owned") >= 1, "the table")
    with open_admin(daemon) as admin:
        _, page = ask(admin, "/metrics")
        _, ledger = ask(admin, "/ledger")
        _, snapshot = ask(admin, "/snapshot")
    status = subprocess.run(
        [sys.executable, "-m", "aiokpl_metricsd", "status", "--socket", str(daemon.socket_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    ).stdout  # fmt: skip
    assert daemon.stop() == 0
    for output in (daemon.stdout, daemon.stderr, status, ledger):
        assert find_obeyed(output) == set()
    # JSON escapes; the page escapes what would end a label, and a scraper reads the rest as text.
    assert {row["name"] for row in msgspec.json.decode(snapshot)["series"]} >= {f"n{HOSTILE[0]}"}
    samples = [sample for family in parse_text(page) for sample in family.samples]
    values = {text: sample.value for sample in samples for text in sample.labels.values()}
    # The page has no NUL.
    shown = [f"v{text}".replace("\0", "\ufffd") for text in HOSTILE]
    assert [values.get(text) for text in shown] == [3.0] * len(shown)
    assert not [sample for sample in samples if sample.name.startswith("forged")]
    assert not [line for line in daemon.stderr.splitlines() if not line.startswith("{")]
