"""A client's memory has bounds, whatever its process does and however long the daemon is away.

Each in a process of its own, whose memory is measured; what is dropped has a reason, and the daemon hears it.
"""

from typing import Any

import msgspec
import pytest

from tests.support.child import Nursery
from tests.support.models import Models
from tests.support.polling import wait_for

# What a process holds, in bytes; and what the test says of it, in its last line.
HEAD = """
import json, resource
from aiokpl_metrics_client import buffers, outbound, pace

def read_memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def report(**words):
    print(json.dumps(words))
"""

MIB = 1024 * 1024


def read_report(text: str) -> dict[str, Any]:
    """Return what a program reported last."""
    return msgspec.json.decode(text.splitlines()[-1], type=dict[str, Any])


@pytest.fixture
def models(nursery: Nursery) -> Models:
    """A daemon with lanes."""
    return Models(nursery)


def test_series_without_end_share_the_overflow_series_and_no_event_is_lost(models: Models) -> None:
    child = models.run(
        f"""{HEAD}
metrics = MetricsClient(max_series=500)
for number in range(5_000):
    metrics.put("endless", request=str(number))
metrics.flush(20.0)
before = read_memory()
for number in range(5_000, 60_000):
    metrics.put("endless", request=str(number))
metrics.flush(20.0)
report(grown=read_memory() - before, **{{key: getattr(metrics.statistics(), key) for key in
    ("series", "events_overflowed", "dropped")}})
"""
    )
    said = read_report(child.stdout)
    assert said["grown"] < 8 * MIB
    assert said["series"] == 501
    assert said["events_overflowed"] == 59_500
    assert models.stop() == {"endless": 60_000}
    overflow = models.daemon.totals()["endless", (("overflow", "true"),)]
    assert overflow.count == 59_500


def test_series_that_were_idle_make_room_for_new_ones(models: Models) -> None:
    child = models.run(
        f"""{HEAD}
# A minute, and ten seconds, for those who can wait.
buffers.IDLE_S, pace._RETIRE_INTERVAL_S = 0.05, 0.01
metrics = MetricsClient(max_series=200)
deadline = time.monotonic() + 20
for turn in range(5):
    for number in range(200):
        metrics.put("turn", turn=str(turn), number=str(number))
    while metrics.statistics().series > 99:
        assert time.monotonic() < deadline, metrics.statistics()
        metrics.flush(1.0)
        metrics._sender._background.wake()
        time.sleep(0.02)
report(overflowed=metrics.statistics().events_overflowed)
"""
    )
    assert read_report(child.stdout) == {"overflowed": 0}
    assert models.stop() == {"turn": 1_000}
    assert len(models.daemon.totals()) == 1_000


def test_six_hours_without_a_daemon_are_folded_and_every_total_arrives(nursery: Nursery) -> None:
    models = Models(nursery, starts=False)
    go = models.directory / "go"
    child = models.start(
        f"""{HEAD}
began = time.time() - 6 * 3600
passed = 0.0
own = metrics._sender._own_outbound
own._wall, own._monotonic = lambda: began + passed, lambda: passed
counter, sizes = metrics.counter("counter"), metrics.histogram("size")
pending = []
memory = []
for minute in range(360):
    for event in range(600):
        counter.record(1)
        sizes.record(event * 37 % 1_000 + 0.1)
        metrics.put("put", zone=str(event % 40))
    passed += 60
    metrics.flush(0.0)
    memory.append(read_memory())
    pending.append(metrics.statistics().bytes_pending)
report(grown=memory[-1] - memory[60], pending=max(pending), folded=metrics.statistics().events_folded)
sys.stdout.flush()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
assert metrics.flush(20.0)
assert metrics.statistics().dropped == {{}}
""",
        str(go),
    )
    wait_for(lambda: child.stdout or not child.is_running(), "six hours", 60.0)
    models.start_daemon()
    go.touch()
    assert child.wait() == 0, child.stderr
    said = read_report(child.stdout)
    assert said["folded"] > 100_000
    assert said["grown"] < 8 * MIB
    assert said["pending"] < 8 * MIB
    assert models.stop() == {"counter": 216_000, "size": 216_000, "put": 216_000}
    assert models.ledger.events_dropped_by_clients == {}


def test_what_is_dropped_is_counted_by_reason_and_reaches_the_daemons_ledger(nursery: Nursery) -> None:
    models = Models(nursery, starts=False)
    go = models.directory / "go"
    child = models.start(
        f"""{HEAD}
# Eight mebibytes, for those who have hours.
outbound.MAX_PENDING_BYTES = outbound.FOLD_BYTES = 50_000
for number in range(20_000):
    metrics.put("long", float(number), request=f"{{number % 4_000}}" + "x" * 200)
    if number % 1_000 == 0:
        metrics.flush(0.0)
metrics.flush(0.0)
report(pending=metrics.statistics().bytes_pending)
sys.stdout.flush()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
metrics.flush(20.0)
metrics.put("wrong", float("nan"))
metrics.put("wrong", None)
metrics.put("n" * 300)
metrics.put("last")
assert metrics.flush(20.0)
report(**metrics.statistics().dropped)
metrics.close()
metrics.put("last")
""",
        str(go),
    )
    wait_for(lambda: child.stdout or not child.is_running(), "the child")
    models.start_daemon()
    go.touch()
    assert child.wait() == 0, child.stderr
    assert read_report(child.stdout.splitlines()[0])["pending"] <= 50_000 + 65_536
    dropped = read_report(child.stdout)
    assert dropped["buffer_full"] > 1_000
    assert (dropped["value_invalid"], dropped["series_invalid"]) == (2, 1)
    counts = models.stop()
    assert counts == {"long": 20_000 - dropped["buffer_full"], "last": 1}
    assert models.ledger.events_dropped_by_clients == dropped


@pytest.mark.slow
def test_after_close_ten_million_records_leave_memory_flat_and_are_counted(models: Models) -> None:
    child = models.start(
        f"""{HEAD}
from collections import deque
from itertools import repeat
counter = metrics.counter("n")
counter.record(1)
assert metrics.close()

def record(count):
    deque(map(counter.record, repeat(1, count)), maxlen=0)

# So that everything has its size.
record(10_000)
before = read_memory()
record(9_990_000)
for number in range(10_000):
    metrics.put(f"late-{{number}}")
report(grown=read_memory() - before, dropped=metrics.statistics().dropped)
"""
    )
    assert child.wait(100.0) == 0, child.stderr
    said = read_report(child.stdout)
    assert said["dropped"] == {"closed": 10_010_000}
    assert said["grown"] < MIB
    assert models.stop() == {"n": 1}


def test_where_no_thread_can_start_whoever_records_sends_and_memory_is_bounded(models: Models) -> None:
    # Nobody may have more processes than he has, but root: the program is nobody's.
    models.directory.chmod(0o755)
    for path in models.directory.glob("daemon.sock*"):
        path.chmod(0o777)
    child = models.run(
        f"""{HEAD}
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
if os.getuid() == 0:
    os.setuid(65534)
try:
    threading.Thread(target=print).start()
except RuntimeError:
    pass
else:
    raise SystemExit("a thread can start")
counter = metrics.counter("n")
for _ in range(100_000):
    counter.record(1)
before = read_memory()
for _ in range(2_000_000):
    counter.record(1)
grown = read_memory() - before
sent = metrics.statistics().events_sent
metrics.put("last")
problem = metrics.statistics().problem
assert metrics.flush(20.0)
report(grown=grown, sent=sent, problem=problem, threads=threading.active_count())
""",
        quiet=False,
    )
    said = read_report(child.stdout)
    assert said["grown"] < 24 * MIB
    # By the calls themselves, before there was a flush.
    assert said["sent"] > 1_000_000
    assert "no thread can start" in said["problem"]
    assert child.stderr.count("\n") == 1, child.stderr
    assert models.stop() == {"n": 2_100_000, "last": 1}
