"""Events recorded before a fork are sent once, by the parent; the child is another producer, and works."""

import sys
from pathlib import Path

import pytest

from tests.client.door import Door
from tests.support.child import Nursery

HEAD = """
import multiprocessing, os, signal, sys, threading, time, warnings
from aiokpl_metrics_client import MetricsClient
# Python 3.12 and later warn of a fork beside threads.
warnings.simplefilter("ignore", DeprecationWarning)
client = MetricsClient(sys.argv[1])

def reap(*pids):
    deadline = time.monotonic() + 20
    for pid in pids:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise SystemExit("a child hangs")
            time.sleep(0.005)
"""


def _run(nursery: Nursery, door: Door, body: str, *arguments: str) -> None:
    script = nursery.directory / "script.py"
    script.write_text(HEAD + body)
    child = nursery.start_python(str(script), str(door.path), *arguments)
    while child.is_running():
        door.read()
    assert child.wait() == 0, child.stderr
    assert child.stderr == ""
    door.read()
    door.check()


def test_events_before_a_fork_are_the_parent_s_and_events_after_it_each_one_s_own(
    door: Door, nursery: Nursery
) -> None:
    _run(
        nursery,
        door,
        """
counter = client.counter("bound")
for number in range(1000):
    client.put("before")
    counter.record(1)
pid = os.fork()
who = "child" if pid == 0 else "parent"
client.put(who)
client.put("cached", zone="a")
counter.record(2)
assert client.flush()
if pid == 0:
    assert client.statistics().events_sent == 3
    os._exit(0)
reap(pid)
""",
    )
    assert len(door.producers()) == 2
    counts = door.counts()
    assert counts == {
        ("before", ()): 1000,
        ("bound", ()): 1002,
        ("parent", ()): 1,
        ("child", ()): 1,
        ("cached", (("zone", "a"),)): 2,
    }


def test_a_client_made_before_the_fork_and_used_after_it_is_another_producer_in_each_child(
    door: Door, nursery: Nursery
) -> None:
    # As gunicorn does with a preloaded application.
    _run(
        nursery,
        door,
        """
pids = []
for worker in range(3):
    pid = os.fork()
    if pid == 0:
        client.put("n", worker=str(worker))
        deadline = time.monotonic() + 20
        while client.statistics().events_sent < 1:
            if time.monotonic() > deadline:
                os._exit(1)
            time.sleep(0.005)
        os._exit(0)
    pids.append(pid)
reap(*pids)
""",
    )
    assert len(door.producers()) == 3
    assert door.events() == 3


def test_the_thread_of_a_child_sends_what_goes_through_cached_and_bound_series(
    door: Door, nursery: Nursery
) -> None:
    _run(
        nursery,
        door,
        """
record = client.counter("bound").record
client.put("cached")
assert client.flush()
pid = os.fork()
if pid == 0:
    client.put("cached")
    record(1)
    deadline = time.monotonic() + 20
    while client.statistics().events_sent < 2:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.005)
    os._exit(0)
reap(pid)
""",
    )
    assert door.counts() == {("cached", ()): 2, ("bound", ()): 1}


def test_a_fork_at_any_moment_beside_threads_that_record_and_flush_loses_and_doubles_nothing(
    door: Door, nursery: Nursery
) -> None:
    _run(
        nursery,
        door,
        """
stop = threading.Event()
recorded = [0] * 3

def work(thread):
    while not stop.is_set():
        client.put("parent", 1, zone=str(recorded[thread] % 50))
        recorded[thread] += 1
        if recorded[thread] % 500 == 0:
            client.flush(0.01)

threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
for thread in threads:
    thread.start()
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        client.put("child")
        client.put("parent", 0, zone="1")
        os._exit(0 if client.flush(10.0) else 1)
    reap(pid)
stop.set()
for thread in threads:
    thread.join(20)
assert client.flush(10.0)
with open(sys.argv[2], "w") as file:
    file.write(str(sum(recorded)))
""",
        str(nursery.directory / "recorded"),
    )
    recorded = int((nursery.directory / "recorded").read_text())
    assert len(door.producers()) == 41
    assert sum(door.values("child")) == 40
    assert door.values("parent").count(0) == 40
    assert door.values("parent").count(1) == recorded


def test_the_thread_imports_nothing_that_a_forked_child_could_wait_for(door: Door, nursery: Nursery) -> None:
    # A module that another thread is importing during a fork can never be imported in the child.
    _run(
        nursery,
        door,
        """
before = None
client.put("n")
before = set(sys.modules)
deadline = time.monotonic() + 20
while client.statistics().events_sent < 1:
    assert time.monotonic() < deadline
    time.sleep(0.005)
assert set(sys.modules) == before, set(sys.modules) - before
""",
    )


def test_the_thread_imports_nothing_without_a_daemon_either(nursery: Nursery, directory: Path) -> None:
    script = directory / "script.py"
    script.write_text(
        HEAD
        + """
client.put("n")
before = set(sys.modules)
assert not client.flush(0.5)
assert set(sys.modules) == before, set(sys.modules) - before
"""
    )
    child = nursery.start_python(str(script), str(directory / "nobody"))
    assert child.wait() == 0, child.stderr
    assert "no daemon listens" in child.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_send_what_they_flush(door: Door, nursery: Nursery, method: str) -> None:
    _run(
        nursery,
        door,
        """
def work():
    client.put("worker")
    assert client.flush()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    client.put("parent")
    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0]
""",
        method,
    )
    assert door.counts() == {("worker", ()): 2, ("parent", ()): 1}
    assert len(door.producers()) == 3


def test_a_fork_below_python_begins_anew_at_the_next_flush(door: Door, nursery: Nursery) -> None:
    # uWSGI forks in C, where no hook of Python's runs.
    _run(
        nursery,
        door,
        """
import ctypes
client.put("parent")
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    client.put("parent")
    flushed = client.flush()
    client.put("child")
    os._exit(0 if flushed and client.flush() else 1)
reap(pid)
""",
    )
    assert door.counts()["parent", ()] == 1
    assert door.counts()["child", ()] == 1
    assert len(door.producers()) == 2


def test_a_child_that_closes_its_client_leaves_the_parent_s_open(door: Door, nursery: Nursery) -> None:
    _run(
        nursery,
        door,
        """
client.put("n")
assert client.flush()
pid = os.fork()
if pid == 0:
    client.put("child")
    os._exit(0 if client.close() else 1)
reap(pid)
client.put("n")
assert client.flush()
""",
    )
    assert door.counts() == {("n", ()): 2, ("child", ()): 1}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="older Pythons do not warn")
def test_python_warns_of_a_fork_beside_the_thread_as_the_documentation_says(
    door: Door, nursery: Nursery
) -> None:
    script = nursery.directory / "script.py"
    script.write_text(
        """
import os, sys, warnings
from aiokpl_metrics_client import MetricsClient
client = MetricsClient(sys.argv[1])
for started in (False, True):
    if started:
        client.put("n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pid = os.fork()
        if pid == 0:
            os._exit(0)
    os.waitpid(pid, 0)
    assert [w.category for w in caught] == ([DeprecationWarning] if started else []), caught
"""
    )
    child = nursery.start_python(str(script), str(door.path))
    assert child.wait() == 0, child.stderr


def test_a_signal_handler_may_fork_while_its_thread_waits_for_one_at_work(
    door: Door, nursery: Nursery
) -> None:
    # The child has no such thread, and goes on in the midst of the wait.
    _run(
        nursery,
        door,
        """
client.put("parent")
assert client.flush()
pid = None
is_busy, goes_on = threading.Event(), threading.Event()

def fork(*_):
    global pid
    pid = os.fork()
    goes_on.set()

def work():
    is_busy.set()
    return goes_on.wait(20)

signal.signal(signal.SIGUSR1, fork)
exclusive = client._sender._exclusive
worker = threading.Thread(target=exclusive.run, args=(work, None, lambda: None), daemon=True)
worker.start()
assert is_busy.wait(20)
main = threading.main_thread().ident
killer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1))
killer.start()
done = exclusive.run(lambda: True, None, lambda: None)
if pid == 0:
    client.put("child")
    os._exit(0 if done is None and client.flush() else 1)
assert done
reap(pid)
worker.join(20)
killer.join(20)
""",
    )
    assert door.counts() == {("parent", ()): 1, ("child", ()): 1}


def test_a_signal_handler_may_fork_in_the_midst_of_a_flush_and_the_child_sends_nothing_of_it(
    door: Door, nursery: Nursery
) -> None:
    _run(
        nursery,
        door,
        """
outbound = client._sender._outbound
choose = outbound._choose
pid = None

def choose_and_fork():
    global pid
    if threading.current_thread() is not threading.main_thread():
        return None
    if pid is None:
        pid = os.fork()
    return choose()

outbound._choose = choose_and_fork
for number in range(3000):
    client.put("parent", zone=str(number))
flushed = client.flush()
if pid == 0:
    client.put("child")
    os._exit(0 if not flushed and client.flush() else 1)
assert flushed
reap(pid)
""",
    )
    names = [name for name, _ in door.counts().elements()]
    assert (names.count("parent"), names.count("child")) == (3000, 1)
    assert len(door.producers()) == 2


def test_what_is_thrown_away_when_a_fork_below_python_is_noticed_is_counted(
    door: Door, nursery: Nursery
) -> None:
    _run(
        nursery,
        door,
        """
import ctypes
record = client.counter("kept").record
assert client.flush()
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    for _ in range(1000):
        record(1)
    client.put("new")
    os._exit(0 if client.statistics().dropped == {"forked": 1000} and client.flush() else 1)
reap(pid)
""",
    )
    assert door.counts() == {("new", ()): 1}
