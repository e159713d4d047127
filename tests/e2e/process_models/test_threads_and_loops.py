"""Threads, event loops, signal handlers and finalizers record; the process ends; every event counts once."""

import signal

import pytest

from tests.support.models import Models
from tests.support.polling import wait_for


def test_threads_share_one_client(models: Models) -> None:
    models.run(
        """
counter, sizes = metrics.counter("counted"), metrics.histogram("size")

def work(number):
    for event in range(2_000):
        metrics.put("put", zone=str(event % 7))
        counter.record(1)
        sizes.record(event)

threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
"""
    )
    assert models.stop() == {"put": 16_000, "counted": 16_000, "size": 16_000}


RUNNERS = {
    "asyncio": "import asyncio; run, pause = asyncio.run, asyncio.sleep",
    "uvloop": "import asyncio, uvloop; run, pause = uvloop.run, asyncio.sleep",
    "trio": "import trio; run, pause = (lambda task: trio.run(lambda: task)), trio.sleep",
}


@pytest.mark.parametrize("loop", RUNNERS)
def test_tasks_of_an_event_loop_record_beside_threads_of_it(models: Models, loop: str) -> None:
    if loop == "trio":
        pytest.importorskip("trio")
    spawning = (
        """
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(task, number)
    await trio.to_thread.run_sync(aside)
"""
        if loop == "trio"
        else """
    await asyncio.gather(*[task(number) for number in range(50)])
    await asyncio.to_thread(aside)
"""
    )
    models.run(
        f"""
{RUNNERS[loop]}
timed = metrics.timer("timed")

def aside():
    metrics.put("aside")

@timed
async def task(number):
    for _ in range(20):
        metrics.put("task")
        await pause(0)

async def main():{spawning}
run(main())
"""
    )
    assert models.stop() == {"task": 1_000, "timed": 50, "aside": 1}


def test_signal_handlers_and_finalizers_record_in_the_midst_of_whatever_runs(models: Models) -> None:
    child = models.run(
        """
import gc
handled = finalized = recorded = 0

def handle(number, frame):
    global handled
    metrics.put("handled", zone=str(handled % 50))
    handled += 1

class Cycle:
    def __init__(self):
        self.cycle = self
    def __del__(self):
        global finalized
        metrics.put("finalized", zone=str(finalized % 50))
        finalized += 1

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
gc.set_threshold(50)
deadline = time.monotonic() + 30
while handled < 300 and time.monotonic() < deadline:
    Cycle()
    metrics.put("recorded", zone=str(recorded % 300))
    recorded += 1
    if recorded % 1_000 == 0:
        metrics.flush(1.0)
signal.setitimer(signal.ITIMER_REAL, 0)
gc.collect()
assert handled >= 300
print(handled, finalized, recorded)
"""
    )
    handled, finalized, recorded = map(int, child.stdout.split())
    assert models.stop() == {"handled": handled, "finalized": finalized, "recorded": recorded}


INTERRUPTS = """
recorded = interrupts = 0
is_armed = False

def interrupt(number, frame):
    global is_armed
    if is_armed:
        is_armed = False
        raise KeyboardInterrupt

def step():
    global recorded
    metrics.put("n", zone=str(recorded % 500))
    recorded += 1
    {more}

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
deadline = time.monotonic() + 20
while interrupts < 300 and time.monotonic() < deadline:
    try:
        is_armed = True
        while is_armed:
            step()
    except KeyboardInterrupt:
        interrupts += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert interrupts >= 100, interrupts
assert metrics.flush(20.0)
for _ in range(1_000):
    metrics.put("after")
# By the thread: there is one, and it works. An exception in the midst of `is_alive` may make Python take a
# thread for one that has ended (bpo-45274): then it ends once it finds another in its place.
deadline = time.monotonic() + 20
while threading.active_count() != 2:
    assert time.monotonic() < deadline, threading.enumerate()
    time.sleep(0.01)
while metrics.statistics().events_unacknowledged or metrics.statistics().events_pending:
    assert time.monotonic() < deadline
    time.sleep(0.01)
print(recorded, interrupts)
"""


def test_exceptions_of_a_signal_handler_in_the_midst_of_put_lose_and_double_nothing(models: Models) -> None:
    child = models.run(INTERRUPTS.replace("{more}", ""), quiet=False)
    recorded, interrupts = map(int, child.stdout.split())
    counts = models.stop()
    assert counts["after"] == 1_000
    # Between an event and its count here, one may come as well.
    assert recorded <= counts["n"] <= recorded + interrupts


def test_exceptions_of_a_signal_handler_in_the_midst_of_flush_leave_the_client_working(
    models: Models,
) -> None:
    child = models.run(INTERRUPTS.replace("{more}", "metrics.flush(1.0)"), quiet=False)
    recorded, interrupts = map(int, child.stdout.split())
    counts = models.stop(loses=True)
    assert counts["after"] == 1_000
    # What a flush had in its hands may be lost with it.
    assert recorded - interrupts <= counts["n"] <= recorded + interrupts


@pytest.mark.parametrize(
    "body",
    [
        # The main thread is gone when the other one records.
        "threading.Thread(target=lambda: (threading.main_thread().join(), record())).start()",
        "record(); threading.Thread(target=sys.exit).start()",
        "threading.Thread(target=lambda: (record(), os.kill(os.getpid(), signal.SIGINT))).start(); wait()",
        "record(); metrics.flush(); os._exit(0)",
        "import atexit; atexit.register(record)",
    ],
    ids=["main ended", "exit in a thread", "interrupted by a thread", "os._exit", "exit handler"],
)
def test_wherever_the_interpreter_s_end_begins_what_was_recorded_is_sent(models: Models, body: str) -> None:
    models.run(
        f"""
def record():
    for number in range(500):
        metrics.put("n", zone=str(number))

# Who is started in the background of a shell ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def wait():
    # In slices: a signal that comes just before the system call does not cut it short.
    try:
        for _ in range(300):
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass

{body}
"""
    )
    assert models.stop() == {"n": 500}


def test_a_daemon_thread_that_goes_on_recording_disturbs_no_end(models: Models) -> None:
    child = models.run(
        """
recorded = 0
record = metrics.counter("n").record

def work():
    global recorded
    while True:
        record(1)
        recorded += 1

threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print(recorded)
"""
    )
    assert models.stop()["n"] >= int(child.stdout)


def test_by_a_signal_without_a_handler_only_what_was_not_sent_yet_is_lost(models: Models) -> None:
    child = models.start(
        """
for _ in range(100):
    metrics.put("flushed")
assert metrics.flush()
print("flushed", flush=True)
for _ in range(100):
    metrics.put("sent")
deadline = time.monotonic() + 30
while metrics.statistics().events_unacknowledged or metrics.statistics().events_sent < 200:
    assert time.monotonic() < deadline
    time.sleep(0.01)
for _ in range(100):
    metrics.put("late")
os.kill(os.getpid(), signal.SIGTERM)
"""
    )
    wait_for(lambda: not child.is_running(), "the end")
    assert child.wait() == -signal.SIGTERM
    counts = models.stop()
    assert (counts["flushed"], counts["sent"]) == (100, 100)
    assert counts.get("late", 0) in (0, 100)
