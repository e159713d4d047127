"""A million random and mutated datagrams are counted, and cost good producers nothing."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from aiokpl_metrics_client import MetricsClient
from aiokpl_metrics_protocol import (
    AckFrame,
    EventsFrame,
    HelloFrame,
    MetricEvent,
    ProtocolError,
    Reason,
    decode,
    encode,
)
from tests.protocol.fuzz import GOOD_PREFIX, random_datagrams
from tests.support.child import Child, Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.rows import Row, Total, check_balance, check_windows, read_rows

DATAGRAMS = int(os.environ.get("METRICSD_TEST_DATAGRAMS", "1000000"))
SEED = 20_261_120

# The first tenth warms up: code, the kernel's buffers, the series (1,000 here), the windows.
WARM_UP = DATAGRAMS // 10

# What may grow after that is the table of producers' numbers: a datagram in forty invents a producer, the
# table ends at 65,536, and an entry takes some 150 bytes (4 MiB for a million datagrams, measured). A leak of
# 20 bytes a datagram passes this bound.
GROWTH_MIB = 16.0

MAX_SERIES = 1_000
SENDER_TIMEOUT_S = 90.0
PAUSE_S = 0.001


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_million_hostile_datagrams_are_counted_and_good_producers_notice_nothing(nursery: Nursery) -> None:
    everything = nursery.directory / "all.jsonl"
    daemon = DaemonProcess(nursery, describe_sinks(everything)).wait_until_listening()
    with MetricsClient(daemon.socket_path) as client:
        good = Good(client, daemon.socket_path)
        # Good series are there before noise takes the places of new ones.
        good.record()
        assert client.flush(SENDER_TIMEOUT_S)
        hostile = nursery.start_python(
            "-m", "tests.support.hostility", str(daemon.socket_path), str(SEED), str(DATAGRAMS)
        )
        warm_mib = record_while_running(good, hostile, daemon)
        assert client.flush(SENDER_TIMEOUT_S)
        statistics = client.statistics()
    rounds = good.rounds
    assert hostile.wait(SENDER_TIMEOUT_S) == 0, hostile.stderr
    assert count_sent(hostile) == DATAGRAMS
    assert rounds >= 10
    assert warm_mib > 0
    assert daemon.is_running(), daemon.stderr
    assert read_rss_mib(daemon) - warm_mib < GROWTH_MIB
    assert daemon.stop() == 0

    check_good(daemon, rounds)
    check_windows(daemon.rows())
    check_windows(read_rows(everything))
    ledger = daemon.ledger
    check_balance(ledger)
    assert ledger.datagrams_received == DATAGRAMS + rounds + statistics.frames_sent
    check_rejects(ledger.datagrams_rejected)
    assert ledger.sinks["all"]["delivered"] == ledger.sinks["all"]["closed"]
    assert [line for line in daemon.log if line["level"] in ("error", "critical")] == []


def describe_sinks(everything: Path) -> str:
    """Return the configuration: good series to the usual file, whatever there is to one that turns over."""
    return (
        f'include = ["{GOOD_PREFIX}*"]\n'
        f"[limits]\nmax_series = {MAX_SERIES}\n"
        f'[sinks.all]\ntype = "jsonl"\npath = "{everything}"\nmax_bytes = 4_000_000\nkeep = 1\n'
    )


class Good:
    """A good producer, which uses every way in: instruments, `put`, and rows of its own making."""

    def __init__(self, client: MetricsClient, socket_path: Path) -> None:
        self.rounds = 0
        self._client = client
        self._socket_path = socket_path
        self._requests = client.counter(f"{GOOD_PREFIX}requests", method="GET")
        self._level = client.gauge(f"{GOOD_PREFIX}level")
        self._duration = client.histogram(f"{GOOD_PREFIX}duration", unit="ms")

    def record(self) -> None:
        """Record the events of one round."""
        for value in range(100):
            self._requests.record(1)
            self._duration.record(value)
        self._level.record(self.rounds)
        self._client.put(f"{GOOD_PREFIX}put", 2, stream="orders")
        row = MetricEvent(f"{GOOD_PREFIX}row", 3.0, 0.0, (("country", "CH"),))
        send_datagram(self._socket_path, encode(EventsFrame([row])))
        self.rounds += 1


def record_while_running(good: Good, hostile: Child, daemon: DaemonProcess) -> float:
    """Record good events for as long as the noise lasts; return the daemon's memory after the warm-up."""
    deadline = time.monotonic() + SENDER_TIMEOUT_S
    warm_mib = 0.0
    while hostile.is_running() and time.monotonic() < deadline:
        good.record()
        if not warm_mib and count_sent(hostile) >= WARM_UP:
            warm_mib = read_rss_mib(daemon)
        time.sleep(PAUSE_S)
    return warm_mib


def check_good(daemon: DaemonProcess, rounds: int) -> None:
    """Assert that the good events are there, all of them and nothing else."""
    assert daemon.totals() == {
        (f"{GOOD_PREFIX}requests", (("method", "GET"),)): Total(100 * rounds, 100 * rounds, 1, 1),
        (f"{GOOD_PREFIX}level", ()): Total(rounds, rounds * (rounds - 1) // 2, 0, rounds - 1),
        (f"{GOOD_PREFIX}duration", ()): Total(100 * rounds, 4_950 * rounds, 0, 99),
        (f"{GOOD_PREFIX}put", (("stream", "orders"),)): Total(rounds, 2 * rounds, 2, 2),
        (f"{GOOD_PREFIX}row", (("country", "CH"),)): Total(rounds, 3 * rounds, 3, 3),
    }
    assert all(row.kind == expect_kind(row) for row in daemon.rows())


def expect_kind(row: Row) -> str:
    """Return the kind that a good series was declared with."""
    kinds = {f"{GOOD_PREFIX}level": "gauge", f"{GOOD_PREFIX}duration": "histogram"}
    return kinds.get(row.name, "counter")


def check_rejects(rejects: dict[str, int]) -> None:
    """Assert that what the codec refuses was refused, by the same reasons."""
    expected = count_rejects()
    assert rejects.keys() == expected.keys()
    # A datagram may have two of these mistakes, and the daemon looks at the dimensions of rows last.
    either = (str(Reason.MALFORMED), str(Reason.WRONG_TYPE), str(Reason.TEXT))
    assert sum(rejects[reason] for reason in either) == sum(expected[reason] for reason in either)
    rest = expected.keys() - set(either)
    assert {reason: rejects[reason] for reason in rest} == {reason: expected[reason] for reason in rest}


def count_rejects() -> dict[str, int]:
    """Return how many of the datagrams are refused for which reason, by the codec's word."""
    rejects: Counter[str] = Counter()
    for datagram in random_datagrams(SEED, DATAGRAMS):
        try:
            frame = decode(datagram)
        except ProtocolError as error:
            rejects[str(error.reason)] += 1
        else:
            if isinstance(frame, (HelloFrame, AckFrame)):
                rejects[str(Reason.UNEXPECTED_FRAME)] += 1
    return dict(rejects)


def count_sent(hostile: Child) -> int:
    """Return how many datagrams the noise says to have sent."""
    whole, _, _ = hostile.stdout.rpartition("\n")
    return int(whole.splitlines()[-1]) if whole else 0


def read_rss_mib(daemon: DaemonProcess) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii", errors="replace")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024
