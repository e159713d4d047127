"""Who makes a new series waits for no thread that does not run: in a forked child, at the very end."""

import pytest

from tests.client.door import Door
from tests.support.child import Nursery

# The thread `worker` stops in the midst of a `put` of a new series, until it is told to go on.
_HEAD = """
import atexit, os, signal, sys, threading, time, warnings
# Python 3.12 and later warn of a fork beside threads.
warnings.simplefilter("ignore", DeprecationWarning)

is_busy, goes_on, may_begin = threading.Event(), threading.Event(), threading.Event()

def work():
    may_begin.wait()
    client.put("worker")

worker = threading.Thread(target=work, daemon=True)

def be_late():
    may_begin.set()
    assert is_busy.wait(20)

if sys.argv[2] == "late":
    # After the client's own exit handler: the last one comes first.
    atexit.register(be_late)

from aiokpl_metrics_client import MetricsClient
client = MetricsClient(sys.argv[1])
client.put("first")
assert client.flush()
table = client._sender.table
find = table._find

def find_slowly(*series):
    if threading.current_thread() is worker:
        is_busy.set()
        while not goes_on.is_set():
            # Not a wait: at the end of the interpreter it stops anywhere.
            pass
    return find(*series)

table._find = find_slowly
worker.start()
"""

_FORK = """
main, pid = threading.main_thread().ident, None

def fork(*_):
    global pid
    pid = os.fork()
    if pid:
        goes_on.set()

def is_waiting():
    frame = sys._current_frames()[main]
    while frame is not None:
        if frame.f_code is type(table).USE.__code__:
            return True
        frame = frame.f_back
    return False

def watch():
    deadline = time.monotonic() + 20
    while not is_waiting() and time.monotonic() < deadline:
        time.sleep(0.005)
    signal.pthread_kill(main, signal.SIGUSR1)

signal.signal(signal.SIGUSR1, fork)
may_begin.set()
assert is_busy.wait(20)
watcher = threading.Thread(target=watch)
watcher.start()
CALL
if pid == 0:
    os._exit(0 if client.flush() else 1)
deadline = time.monotonic() + 20
while os.waitpid(pid, os.WNOHANG)[0] == 0:
    if time.monotonic() > deadline:
        os.kill(pid, signal.SIGKILL)
        raise SystemExit("the child waits for ever")
    time.sleep(0.005)
worker.join(20)
watcher.join(20)
assert client.flush()
"""


def _run(nursery: Nursery, door: Door, body: str, when: str) -> None:
    script = nursery.directory / "script.py"
    script.write_text(_HEAD + body)
    child = nursery.start_python(str(script), str(door.path), when)
    while child.is_running():
        door.read()
    assert (child.wait(), child.stderr) == (0, "")
    door.read()
    door.check()


@pytest.mark.parametrize(
    ("use", "call"),
    [("put", "client.put('n')"), ("bind", "client.counter('n').record(1)")],
)
def test_a_signal_handler_may_fork_while_its_thread_waits_to_make_a_series(
    door: Door, nursery: Nursery, use: str, call: str
) -> None:
    # Parent and child both go on with the call.
    _run(nursery, door, _FORK.replace("USE", use).replace("CALL", call), "early")
    assert door.counts() == {("first", ()): 1, ("worker", ()): 1, ("n", ()): 2}
    assert len(door.producers()) == 2


def test_a_finalizer_makes_a_series_though_a_daemon_thread_was_stopped_in_the_midst_of_that(
    door: Door, nursery: Nursery
) -> None:
    body = """
class Last:
    def __del__(self, client=client):
        client.put("last")
        client.counter("bound").record(1)
# The first thing that the interpreter lets go when it ends, while the modules are whole.
sys.last_value = Last()
"""
    _run(nursery, door, body, "late")
    assert door.counts() == {("first", ()): 1, ("last", ()): 1, ("bound", ()): 1}
