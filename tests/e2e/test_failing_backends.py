"""One backend fails: the other sinks' windows arrive meanwhile, what fails is counted, and nothing is lost.

All ways in which a kind of backend can fail are met at once, each by a sink of its own, beside a sink for
each kind that works. How long the event loop is kept is a timing; `make bench` prints it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support import faults, gate
from tests.support.admin import open_admin, read_sinks
from tests.support.backends import ENVIRON, NAMES, Backend, Backends, build_options, serve_backends
from tests.support.child import Nursery
from tests.support.cloudwatch_stub import CloudWatchStub
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.datadog_intake import DatadogIntake
from tests.support.faults import Faulty, serve_faults
from tests.support.polling import wait_for
from tests.support.rows import check_balance

# A counter and a histogram: of the first each event adds one, and so does each point of the second.
FRAME = encode(
    EventsFrame([MetricEvent("orders", 1.0, 0.0), MetricEvent("latency", 5.0, 0.0, kind="histogram")])
)

SERIES = 2

# Where nobody is sent to.
NOWHERE = "http://127.0.0.1:9"

FAILED = "exports_failed_total"

# How many windows everybody else gets while a backend fails.
WINDOWS = 2

# What the last error says of each fault, whatever the backend's own words for it.
WORDS = {
    faults.FAILED: r"500|INTERNAL|InternalServiceFault",
    faults.THROTTLED: r"429|RESOURCE_EXHAUSTED|TooManyRequests",
    faults.REDIRECT: r"307",
    faults.PARTIAL: r"one is bad",
    gate.HANG: r"(?i)time|no answer|UNAVAILABLE",
    gate.RESET: r"(?i)connection|UNAVAILABLE",
    gate.CLOSE: r"(?i)connection|closed|UNAVAILABLE",
    gate.REFUSE: r"(?i)connect|UNAVAILABLE",
}

Count = tuple[str, int, int]
Figures = dict[str, dict[str, float]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_while_one_backend_fails_the_others_windows_arrive_and_its_own_follow_once_it_recovers(
    nursery: Nursery, kind: str
) -> None:
    with serve_backends() as working, serve_faults(kind, working.urls()[kind]) as failing:
        daemon = start(nursery, failing.all, working)
        wait_for(lambda: send(daemon) and count_windows(working) >= WINDOWS, "the other sinks' windows")
        check_figures(wait_for_failures(daemon, failing.all), failing.all)
        failing.recover()
        if kind == "grpc":
            # It connects again in its own time, some seconds; whoever asks before fails at once.
            wait_for(lambda: all(each.gate is None or each.gate.passed for each in failing.all), "gRPC")
        assert daemon.stop() == 0, daemon.stderr
        check_is_there_once(daemon, working.by_name().values())
        check_is_there_once(daemon, (each.backend for each in failing.all))
        check_ledger(daemon, failing.all)
        check_log(daemon)


@pytest.mark.slow
def test_a_daemon_whose_backends_all_fail_ends_in_its_time_and_says_what_is_lost(nursery: Nursery) -> None:
    with ExitStack() as stack:
        failing = [
            each
            for kind in NAMES
            for each in stack.enter_context(serve_faults(kind, NOWHERE)).all
            if each.fault != faults.PARTIAL
        ]
        daemon = start(nursery, failing, shutdown_timeout_s=2)
        wait_for(lambda: send(daemon) and daemon.rows(), "a window")
        wait_for_failures(daemon, failing)
        assert daemon.stop(timeout_s=20.0) == 0
        check_balance(daemon.ledger)
        sinks = daemon.ledger.sinks
        for each in failing:
            own = sinks[each.name]
            assert own["dropped"] == own["closed"] == sinks["windows"]["delivered"] > 0
            assert own["dropped_by_reason"] == {"shutdown": own["dropped"]}
            assert read_counts(each.backend) == []
        lost = Counter(line["sink"] for line in daemon.find_log("not delivered, dropped"))
        assert lost == Counter(each.name for each in failing)
        check_log(daemon)


def start(
    nursery: Nursery,
    failing: Iterable[Faulty],
    working: Backends | None = None,
    *,
    shutdown_timeout_s: int = 20,
) -> DaemonProcess:
    """Start a daemon with a sink for each."""
    urls = {} if working is None else working.urls()
    tables = [f"[sinks.{name}]\n{build_options(name, url)}" for name, url in urls.items()]
    return DaemonProcess(
        nursery,
        "\n".join([*tables, *(each.table for each in failing)]),
        top=f"shutdown_timeout_s = {shutdown_timeout_s}",
        environ={**ENVIRON, **faults.ENVIRON},
    ).wait_until_listening()


def send(daemon: DaemonProcess) -> bool:
    """Send two events."""
    send_datagram(daemon.socket_path, FRAME)
    return True


def count_windows(working: Backends) -> int:
    """Return how many whole windows each of them has at least."""

    def count(backend: Backend) -> int:
        series = Counter(end for _, end, _ in read_counts(backend))
        return sum(number == SERIES for number in series.values())

    return min(count(backend) for backend in working.by_name().values())


def wait_for_failures(daemon: DaemonProcess, failing: Sequence[Faulty]) -> Figures:
    """Return the sinks' figures on the page, once every fault was met."""
    with open_admin(daemon) as connection:

        def read() -> Figures:
            figures = read_sinks(connection)
            return figures if all(figures[each.name][FAILED] for each in failing) else {}

        return wait_for(read, "all failures")


# ---- what a backend has


def read_counts(backend: Backend) -> list[Count]:
    """Return name, end and count of everything that it took, as often as it took it."""
    return sorted(_read_counts(backend))


def _read_counts(backend: Backend) -> Iterable[Count]:
    if isinstance(backend, CloudWatchStub):
        for datum in list(backend.accepted):
            count = int(datum["StatisticValues"]["SampleCount"])
            yield datum["MetricName"], int(datum["Timestamp"]) + 1, count
    elif isinstance(backend, DatadogIntake):
        # Equal series and seconds replace each other, points add up.
        for key, value in list(backend.values.items()):
            yield key.metric.removeprefix("aiokpl."), key.timestamp, int(value)
        for key, points in list(backend.points.items()):
            yield key.metric.removeprefix("aiokpl."), key.timestamp, len(points)
    else:
        for name, kind, point in backend.points:
            count = point.count if kind == "exponential_histogram" else int(point.as_double + point.as_int)
            yield name.removeprefix("aiokpl."), point.time_unix_nano // 10**9, count


def check_is_there_once(daemon: DaemonProcess, backends: Iterable[Backend]) -> None:
    """Assert that each backend has what the file has, each window once."""
    expected = sorted((row.name, int(row.window_end), row.count) for row in daemon.rows())
    for backend in backends:
        assert read_counts(backend) == expected


# ---- what the daemon says


def check_figures(figures: Figures, failing: Iterable[Faulty]) -> None:
    """Assert that everything of those who take nothing waits, and is told to nobody else."""
    for each in failing:
        own = figures[each.name]
        assert own["snapshots_dropped_total"] == own["snapshots_expired_total"] == 0
        if each.fault == faults.PARTIAL:
            continue
        assert read_counts(each.backend) == []
        assert own["snapshots_delivered_total"] == own["snapshots_quarantined_total"] == 0
        assert own["waiting_snapshots"] == own["snapshots_closed_total"] >= SERIES * WINDOWS
        if each.fault == faults.THROTTLED:
            # It was told to wait, for longer than this takes.
            assert own["exports_attempted_total"] == 1


def check_ledger(daemon: DaemonProcess, failing: Iterable[Faulty]) -> None:
    """Assert that all was delivered in the end, and that failures are counted where they were."""
    check_balance(daemon.ledger)
    faulty = {each.name: each for each in failing}
    for name, sink in daemon.ledger.sinks.items():
        assert sink["closed"] > 0
        if name not in faulty:
            assert sink["delivered"] == sink["closed"], name
            assert (sink["failures"], sink["last_error"]) == (0, "")
            continue
        assert sink["exports"] >= sink["failures"] > 0
        assert re.search(WORDS[faulty[name].fault], sink["last_error"]), name
        # Only Datadog's partial success is about one datum, which is sent no more.
        assert (sink["quarantined"] > 0) == (name == "datadog-partial"), name
        assert sink["delivered"] + sink["quarantined"] == sink["closed"], name


def check_log(daemon: DaemonProcess) -> None:
    """Assert that each sink's failure of one kind was said once: the test is shorter than a minute."""
    lines = [line for line in daemon.log if line["level"] in {"warning", "error"}]
    said = Counter(
        (line.get("sink"), line["message"], str(line.get("error", "")).partition(":")[0]) for line in lines
    )
    assert said
    assert set(said.values()) == {1}
    assert "Traceback" not in daemon.stderr
