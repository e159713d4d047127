"""gunicorn and uvicorn, workers recycled, preloaded or not: every request that is answered counts once."""

import re
import signal
import sys
import threading
from pathlib import Path

import pytest

from tests.soak.load import is_answered
from tests.support.child import Child
from tests.support.models import Models
from tests.support.polling import wait_for

pytestmark = pytest.mark.slow

_CALLERS = 3
_WORKERS = 2
_REQUESTS = 40

# Says of each worker that it can be told to end: until then, who is loses what it has just recorded, since
# gunicorn lets a worker that boots die of the signal, or not hear it.
_CONFIGURATION = """
def post_worker_init(worker):
    worker.log.info("Worker ready")
"""

WORKERS = {
    "sync": ("sync", "wsgi", "Worker ready", ()),
    "threads": ("gthread", "wsgi", "Worker ready", ("--threads", "3")),
    "uvicorn": ("uvicorn_worker.UvicornWorker", "asgi", "Application startup complete", ()),
}


def _call(path: Path, server: Child) -> int:
    """Have callers send requests at once, and return how many were answered."""
    answered = [0] * _CALLERS

    def call(caller: int) -> None:
        for _ in range(_REQUESTS):
            answered[caller] += is_answered(path)

    # The file is there before anybody listens.
    wait_for(lambda: is_answered(path) or not server.is_running(), "the server")
    callers = [threading.Thread(target=call, args=(number,)) for number in range(_CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    return 1 + sum(answered)


def _are_all_ready(server: Child, ready: str) -> bool:
    """Tell whether both workers are, and none of them is about to be recycled."""
    said = server.stderr
    booted, ended = said.count("Booting worker"), said.count("Worker exiting")
    # One with threads says so again with each request that it still answers.
    recycled = set(re.findall(r"\[(\d+)\] \[INFO\] (?:Autorestarting|Maximum request)", said))
    return booted - ended == _WORKERS and said.count(ready) == booted and len(recycled) == ended


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("workers", WORKERS)
def test_workers_of_gunicorn_merge_in_the_daemon(models: Models, workers: str, *, preload: bool) -> None:
    kind, application, ready, options = WORKERS[workers]
    path, configuration = models.directory / "http.sock", models.directory / "gunicorn.conf.py"
    configuration.write_text(_CONFIGURATION, encoding="utf-8")
    command = [sys.executable, "-m", "gunicorn", f"tests.e2e.process_models.served:{application}"]
    command += ["--config", str(configuration), "--worker-class", kind, "--workers", str(_WORKERS)]
    command += ["--bind", f"unix:{path}", *options]
    # Recycled every few requests, in the midst of others.
    command += ["--max-requests", "25", "--max-requests-jitter", "5", "--no-control-socket"]
    server = models.nursery.start([*command, *(["--preload"] if preload else [])], environ=models.environ)
    answered = _call(path, server)
    assert answered >= _CALLERS * _REQUESTS / 2
    wait_for(lambda: _are_all_ready(server, ready) or not server.is_running(), "the workers")
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0, server.stderr
    counts = models.stop()
    assert counts["requests"] == counts["bound"] == answered, server.stderr
    booted = server.stderr.count("Booting worker")
    # uvicorn looks a few times a second how many a worker has answered, and these may be quicker than that.
    assert booted >= (2 if workers == "uvicorn" else 3), "some were recycled"
    assert counts["imports"] == (1 if preload else booted)


@pytest.mark.parametrize("processes", [1, 2])
def test_uvicorn_on_its_own_loses_nothing_with_a_flush_at_the_end_of_its_lifespan(
    models: Models, processes: int
) -> None:
    path = models.directory / "http.sock"
    command = [sys.executable, "-m", "uvicorn", "tests.e2e.process_models.served:asgi", "--uds", str(path)]
    server = models.nursery.start(
        [*command, *(["--workers", str(processes)] if processes > 1 else [])], environ=models.environ
    )
    wait_for(lambda: server.stderr.count("startup complete") == processes, "the server")
    answered = _call(path, server)
    assert answered == 1 + _CALLERS * _REQUESTS
    server.send_signal(signal.SIGTERM)
    server.wait()
    counts = models.stop()
    assert counts == {"requests": answered, "bound": answered, "imports": processes}
