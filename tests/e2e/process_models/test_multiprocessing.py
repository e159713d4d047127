"""Workers of `multiprocessing` and of executors: what they record counts, with nothing to call at the end."""

import pytest

from tests.support.models import Models

pytestmark = pytest.mark.slow

METHODS = ("fork", "spawn", "forkserver")


@pytest.mark.parametrize("method", METHODS)
def test_processes_that_just_return_or_raise_lose_nothing(models: Models, method: str) -> None:
    models.run(
        """
import multiprocessing

def work(count):
    for _ in range(count):
        metrics.put("worker")
    if count == 3:
        raise SystemExit(0)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    metrics.put("parent")
    processes = [context.Process(target=work, args=(count,)) for count in (1, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    metrics.put("parent")
""",
        method,
    )
    assert models.stop() == {"parent": 2, "worker": 6}


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_is_closed_and_an_executor_lose_nothing(models: Models, method: str) -> None:
    models.run(
        """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def work(name):
    metrics.put(name)
    return name

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    # More tasks than one worker may do: some end in the midst.
    pool = context.Pool(2, maxtasksperchild=4)
    assert len(pool.map(work, ["pool"] * 20, chunksize=1)) == 20
    pool.close()
    pool.join()
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert len(list(executor.map(work, ["executor"] * 20))) == 20
""",
        method,
    )
    assert models.stop() == {"pool": 20, "executor": 20}


def test_of_a_pool_that_is_terminated_what_was_flushed_is_there(models: Models) -> None:
    # Its workers get SIGTERM as soon as the last result is in.
    models.run(
        """
import multiprocessing

def work(name):
    metrics.put(name)
    return metrics.flush()

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(pool.map(work, ["pool"] * 20))
"""
    )
    assert models.stop() == {"pool": 20}


def test_a_client_that_a_worker_makes_itself_sends_what_it_has_at_the_workers_end(models: Models) -> None:
    models.run(
        """
import multiprocessing

def work():
    own = MetricsClient()
    own.put("own")
    own.counter("bound").record(1)

def nest():
    metrics.put("nested")
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=nest)
    process.start()
    process.join(30)
    assert process.exitcode == 0
"""
    )
    assert models.stop() == {"nested": 1, "own": 1, "bound": 1}
