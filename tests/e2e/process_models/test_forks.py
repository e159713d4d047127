"""Forks at any moment, in any thread, above and below Python: what came before, the parent alone sends."""

from tests.support.models import Models
from tests.support.polling import wait_for


def test_forks_beside_threads_that_record_and_a_thread_that_sends_lose_and_double_nothing(
    models: Models,
) -> None:
    child = models.run(
        """
stop = threading.Event()
recorded = [0, 0]

def work(thread):
    while not stop.is_set():
        metrics.put("parent", zone=str(recorded[thread] % 50))
        recorded[thread] += 1
        if recorded[thread] % 200 == 0:
            metrics.flush(0.01)

threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for _ in range(30):
    pid = os.fork()
    if pid == 0:
        # No lock of the parent's is waited for, wherever its threads were.
        metrics.put("child")
        metrics.put("parent", 1, zone="1")
        os._exit(0 if metrics.flush(20.0) else 1)
    reap(pid)
stop.set()
for thread in threads:
    thread.join(20)
print(sum(recorded))
"""
    )
    assert models.stop() == {"parent": int(child.stdout) + 30, "child": 30}


def test_each_of_two_generations_forked_in_a_thread_is_a_producer_of_its_own(models: Models) -> None:
    models.run(
        """
metrics.put("before")
metrics.counter("bound").record(1)

def fork():
    pid = os.fork()
    if pid == 0:
        metrics.put("child")
        grandchild = os.fork()
        if grandchild == 0:
            # Nothing is called: the thread that the fork has started sends.
            metrics.put("grandchild")
            deadline = time.monotonic() + 20
            while metrics.statistics().events_unacknowledged or not metrics.statistics().events_sent:
                if time.monotonic() > deadline:
                    os._exit(1)
                time.sleep(0.01)
            os._exit(0)
        reap(grandchild)
        os._exit(0 if metrics.flush(20.0) else 1)
    reap(pid)

thread = threading.Thread(target=fork)
thread.start()
thread.join()
metrics.put("after")
"""
    )
    assert models.stop() == {"before": 1, "bound": 1, "child": 1, "grandchild": 1, "after": 1}


def test_a_fork_below_python_begins_anew_at_the_next_new_series_or_flush(models: Models) -> None:
    # uWSGI forks in C, where no hook of Python's runs.
    models.run(
        """
import ctypes
metrics.put("parent")
for first in ("flush", "put"):
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        if first == "flush":
            assert metrics.flush()
            metrics.put("child")
        else:
            metrics.put("child", zone=first)
        os._exit(0 if metrics.flush(20.0) else 1)
    reap(pid)
"""
    )
    assert models.stop() == {"parent": 1, "child": 2}


def test_a_process_that_makes_itself_a_daemon_and_closes_every_descriptor_goes_on_recording(
    models: Models,
) -> None:
    done = models.directory / "done"
    models.run(
        """
metrics.put("foreground")
if os.fork():
    sys.exit()
os.setsid()
if os.fork():
    sys.exit()
os.closerange(0, 256)
assert os.open(os.devnull, os.O_RDWR) == 0
os.dup2(0, 1)
os.dup2(0, 2)
metrics.put("background")
assert metrics.flush(20.0)
metrics.put("background")
import atexit
atexit._run_exitfuncs()
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
os._exit(0)
""",
        str(done),
    )
    wait_for(done.exists, "the background process to be done")
    assert models.stop() == {"foreground": 1, "background": 2}
