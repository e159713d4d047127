"""What was recorded is sent when the process ends, however it ends in Python; and the end is not held up."""

import time
from pathlib import Path

import pytest

from tests.client.door import Door
from tests.support.child import Nursery

HEAD = """
import asyncio, atexit, os, signal, sys, threading, time
from aiokpl_metrics_client import MetricsClient
client = MetricsClient(sys.argv[1])
"""


def _run(nursery: Nursery, path: Path, body: str) -> tuple[int, str]:
    script = nursery.directory / "script.py"
    script.write_text(HEAD + body)
    child = nursery.start_python(str(script), str(path))
    return child.wait(), child.stderr


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("client.put('n')", 0),
        ("client.put('n'); sys.exit(3)", 3),
        ("client.put('n'); raise KeyError('x')", 1),
        ("client.put('n'); raise KeyboardInterrupt", -2),
        ("client.counter('n').record(1); del client", 0),
        ("threading.Thread(target=lambda: client.put('n')).start()", 0),
        ("threading.Thread(target=lambda: (time.sleep(0.05), client.put('n'))).start()", 0),
        ("atexit.register(lambda: client.put('n'))", 0),
        ("client.put('n'); client.close()", 0),
        ("async def main(): client.put('n')\nasyncio.run(main())", 0),
        (
            "client.put('n'); signal.signal(15, lambda *_: sys.exit(5)); os.kill(os.getpid(), 15)",
            5,
        ),
        ("client.put('n'); ok = client.flush(); os._exit(7 if ok else 1)", 7),
        ("client.put('n'); threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", 0),
    ],
    ids=[
        "the end of the script",
        "sys.exit",
        "exception",
        "Ctrl-C",
        "client let go",
        "another thread",
        "another thread, later",
        "an earlier exit handler",
        "close",
        "asyncio",
        "SIGTERM with a handler",
        "os._exit after flush",
        "a daemon thread runs",
    ],
)
def test_what_was_recorded_is_sent_at_the_end(door: Door, nursery: Nursery, body: str, status: int) -> None:
    assert _run(nursery, door.path, body)[0] == status
    door.read()
    assert door.counts() == {("n", ()): 1}


def test_many_series_and_events_are_sent_at_the_end(door: Door, nursery: Nursery) -> None:
    body = """
for number in range(2000):
    client.put("n", number, zone=str(number % 500))
"""
    assert _run(nursery, door.path, body)[0] == 0
    door.read()
    assert door.events() == 2000
    door.check()


def test_the_end_is_not_held_up_by_a_daemon_that_is_away_even_with_many_clients(
    nursery: Nursery, directory: Path
) -> None:
    body = """
clients = [MetricsClient(sys.argv[1]) for _ in range(5)]
for each in clients:
    each.put("n")
start = time.monotonic()
atexit._run_exitfuncs()
print(time.monotonic() - start)
"""
    script = directory / "script.py"
    script.write_text(HEAD + body)
    child = nursery.start_python(str(script), str(directory / "nobody"))
    assert child.wait() == 0, child.stderr
    assert float(child.stdout) < 1.0


def test_the_end_waits_for_a_daemon_that_is_there_but_slow(door: Door, nursery: Nursery) -> None:
    script = nursery.directory / "script.py"
    script.write_text(
        HEAD
        + """
for number in range(100_000):
    client.put("n", number + 0.5)
"""
    )
    child = nursery.start_python(str(script), str(door.path))
    while child.is_running():
        door.read(1)
        time.sleep(0.002)
    assert child.wait() == 0, child.stderr
    door.read()
    assert door.events() == 100_000
    door.check()


def test_putting_from_finalizers_at_the_very_end_is_quiet(door: Door, nursery: Nursery) -> None:
    body = """
class Last:
    def __init__(self): self.client, self.cycle = client, self
    def __del__(self):
        self.client.put("late"); self.client.put("later", zone=[1]); self.client.flush(0.0)
last = Last()
client.put("n")
sys.last = last
"""
    status, stderr = _run(nursery, door.path, body)
    assert (status, stderr) == (0, "")
    door.read()
    assert door.counts()["n", ()] == 1


@pytest.mark.parametrize(
    "call",
    [
        "client.put('n')",
        "client.counter('n').record(1)",
        "(client.put('n'), client.flush())",
    ],
    ids=["put", "counter", "flush"],
)
def test_a_global_whose_finalizer_makes_the_first_event_does_not_hang_the_end(
    door: Door, nursery: Nursery, call: str
) -> None:
    # Exit handlers are over by then, and a thread that is started would never run.
    body = f"""
class Pool:
    def __del__(self, client=client):
        {call}
pool = Pool()
"""
    assert _run(nursery, door.path, body) == (0, "")


def test_an_exit_handler_that_comes_after_ours_is_sent(door: Door, nursery: Nursery) -> None:
    script = nursery.directory / "script.py"
    script.write_text("""
import atexit

def late():
    client.put("known")
    client.put("new")
    client.counter("bound").record(2)
    other.put("first of all")

atexit.register(late)
import sys
from aiokpl_metrics_client import MetricsClient
client, other = MetricsClient(sys.argv[1]), MetricsClient(sys.argv[1])
client.put("known")
""")
    child = nursery.start_python(str(script), str(door.path))
    assert (child.wait(), child.stderr) == (0, "")
    door.read()
    assert {name: count for (name, _), count in door.counts().items()} == {
        "known": 2,
        "new": 1,
        "bound": 1,
        "first of all": 1,
    }


def test_the_end_waits_once_where_multiprocessing_tells_of_it_too(nursery: Nursery, directory: Path) -> None:
    script = directory / "script.py"
    script.write_text("""
import atexit, multiprocessing.util, sys
from aiokpl_metrics_client import MetricsClient, process
client = MetricsClient(sys.argv[1])
client.put("n")
atexit._run_exitfuncs()
print(process._spent_s)
""")
    child = nursery.start_python(str(script), str(directory / "nobody"))
    assert child.wait() == 0, child.stderr
    assert float(child.stdout) < 0.9, "twice 0.5 without the mend"
