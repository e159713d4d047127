"""What happens to a pod, one function each.

Each begins with an empty pod and ends with everything ended in order, unless that is what it is about. It
asserts what must be true on the way, and returns what was lost and how long it took.
"""

import signal
import struct
import time
from collections.abc import Mapping

from tests.pod.cgroup import limit
from tests.pod.life import Life, Outcome, since
from tests.pod.pod import RESULTS
from tests.support.child import ROOT, add_import_path
from tests.support.halting import halt_import
from tests.support.polling import wait_for

# Between SIGTERM and SIGKILL, when the service has used up the pod's grace period (kubelet's
# minimumGracePeriodInSeconds, read 2026-11).
_LEAST_GRACE_S = 2.0

# A tenth of a CPU, and room for some 30,000 series.
_CPU_RATIO = 0.1
_MEMORY_BYTES = 44 << 20

# A request's id as a dimension: so many new series in each of the service's rounds.
_FRESH_SERIES = "40"
_MEMORY_S = 60.0

_FORWARD_S, _BACK_S = 3600.0, -600.0

# ---- who comes first


def start_daemon_first(life: Life) -> Outcome:
    """The order of a native sidecar with a startup probe."""
    began = time.monotonic()
    life.start_daemon()
    life.wait_until_accepting()
    seconds = since(began)
    life.start_service()
    life.wait_until_sent()
    return life.finish(seconds)


def start_service_first(life: Life) -> Outcome:
    """The order of two plain containers, at its worst."""
    life.start_service()
    life.wait_until_recorded()
    began = time.monotonic()
    life.start_daemon()
    life.wait_until_sent()
    return life.finish(since(began))


def start_slowly(life: Life) -> Outcome:
    """The kernel lets the daemon run for a tenth of the time."""
    life.start_service()
    life.wait_until_recorded()
    with limit(cpu_ratio=_CPU_RATIO) as limits:
        began = time.monotonic()
        life.start_daemon(limits=limits)
        life.wait_until_accepting()
        seconds = since(began)
        life.wait_until_sent()
        assert limits.count_throttled()
        return life.finish(seconds)


# ---- who is killed


def kill_daemon(life: Life) -> Outcome:
    """Open windows and frames that no window has are in the state directory."""
    life.begin()
    return _go_on(life, life.kill_daemon())


def kill_daemon_without_state(life: Life) -> Outcome:
    """The next daemon counts what the service had sent before; what of it is in no window is lost."""
    life.begin()
    began = life.kill_daemon()
    kept = sum(row.count for row in life.rows())
    life.start_daemon()
    sent = life.notes.sent
    life.wait_until_sent(sent + 1)
    seconds = since(began)
    life.end_service()
    producers = life.ask_statement()["producers"]
    life.end_daemon()
    lost = life.count_lost()
    (before,) = [each["before"] for each in producers["listed"]]
    assert lost == before - kept
    return Outcome(lost, seconds)


def kill_both(life: Life) -> Outcome:
    """What the service had, and no daemon had acknowledged, may be nowhere; all else is counted."""
    life.begin()
    life.service.send_signal(signal.SIGKILL)
    began = life.kill_daemon()
    life.service.wait()
    before = life.notes
    life.start_daemon()
    life.wait_until_accepting()
    life.start_service()
    life.wait_until_sent()
    outcome = life.finish(since(began))
    assert outcome.lost <= before.recorded - before.acknowledged
    return outcome


def keep_stale_socket(life: Life) -> Outcome:
    """Both containers restart in a volume that still has the socket of nobody."""
    life.begin()
    life.end_service()
    life.kill_daemon()
    assert life.socket.is_socket()
    life.start_service()
    life.wait_until_recorded()
    began = time.monotonic()
    life.start_daemon()
    life.wait_until_sent()
    return life.finish(since(began))


def reach_memory_limit(life: Life) -> Outcome:
    """More series than the limit has room for; the kernel kills the daemon, and it is started again."""
    with limit(memory_bytes=_MEMORY_BYTES) as limits:

        def keep_running() -> bool:
            if not life.daemon.is_running():
                life.start_daemon(limits=limits)
            return True

        life.begin("--fresh", _FRESH_SERIES, limits=limits)
        assert life.daemon.wait(_MEMORY_S) != 0
        began = time.monotonic()
        assert limits.count_oom_kills()
        life.service.send_signal(signal.SIGUSR1)
        sent = life.notes.sent
        wait_for(lambda: keep_running() and life.notes.sent > sent, "the next daemon to take events")
        seconds = since(began)
        life.service.send_signal(signal.SIGTERM)
        wait_for(lambda: keep_running() and not life.service.is_running(), "the service to end")
        life.await_service()
        # It is still near its limit.
        wait_for(lambda: keep_running() and life.stop_daemon() == 0, "the daemon to end in order", _MEMORY_S)
        return Outcome(life.count_lost(), seconds)


# ---- what the clock does


def step_clock_forward(life: Life) -> Outcome:
    """An hour: what is due by the new time closes, once."""
    return _step_clock(life, _FORWARD_S)


def step_clock_back(life: Life) -> Outcome:
    """Ten minutes: the open window closes at once, and windows begin anew."""
    outcome = _step_clock(life, _BACK_S)
    (line,) = life.read_log("stopped")
    assert line["clock_steps"] == 1
    return outcome


# ---- who is told to end


def stop_during_import(life: Life) -> Outcome:
    """Process 1 of a container has no handler but its own; nothing was accepted yet."""
    life.start_service()
    life.start_daemon(environ=halt_import("aiokpl_metricsd.listener", RESULTS / "marker"))
    life.wait("the import", (life.pod.results.seen / "marker").exists)
    life.wait_until_recorded()
    seconds = life.end_daemon()
    life.start_daemon()
    life.wait_until_sent()
    return life.finish(seconds)


def stop_before_event_loop(life: Life) -> Outcome:
    """The socket is there, and producers are in its queue."""
    life.start_daemon(environ=halt_import("uvloop", RESULTS / "marker"))
    marker = life.pod.results.seen / "marker"
    life.wait("the import", marker.exists)
    assert life.socket.is_socket()
    life.start_service()
    life.wait_until_sent()
    began = time.monotonic()
    life.daemon.send_signal(signal.SIGTERM)
    marker.unlink()
    assert life.daemon.wait() == 0, life.daemon.stderr
    seconds = since(began)
    life.start_daemon()
    return life.finish(seconds)


def stop_with_hanging_backend(life: Life) -> Outcome:
    """It ends by itself; what the backend has not taken waits in the state directory."""
    _begin_hanging(life)
    seconds = life.end_daemon()
    sink = life.read_ledger().sinks["hanging"]
    assert sink["waiting"] == sink["closed"] > 0
    return _find_again(life, seconds)


def kill_with_hanging_backend(life: Life) -> Outcome:
    """SIGKILL comes as early as it may; by then all is in the windows and in the state directory."""
    _begin_hanging(life)
    began = time.monotonic()
    life.daemon.send_signal(signal.SIGTERM)
    life.wait("the last window", lambda: life.count_recorded() == sum(row.count for row in life.rows()))
    seconds = since(began)
    life.wait("the grace period", lambda: since(began) >= _LEAST_GRACE_S)
    # There is no last line, so what would go with the volume is named before.
    (line,) = life.read_log("the end waits for sinks")
    assert line["snapshots"] == {"hanging": len(life.rows())}
    life.kill_daemon()
    return _find_again(life, seconds)


def stop_twice(life: Life) -> Outcome:
    """The second signal ends it at once; the rest is in the state directory."""
    _begin_hanging(life)
    life.daemon.send_signal(signal.SIGTERM)
    life.wait("the first signal to be seen", lambda: not life.socket.exists())
    life.wait("the checkpoint", lambda: life.count_recorded() == sum(row.count for row in life.rows()))
    seconds = life.end_daemon(status=1)
    return _find_again(life, seconds)


def delete_pod(life: Life) -> Outcome:
    """The service ends first, then the daemon, and the volumes go."""
    life.begin()
    began = time.monotonic()
    life.end_service()
    life.end_daemon()
    seconds = since(began)
    return Outcome(life.count_lost(), seconds)


def delete_pod_with_hanging_backend(life: Life) -> Outcome:
    """What the backend has not taken goes with the volume; the last line says how much that is."""
    _begin_hanging(life)
    seconds = life.end_daemon()
    assert life.count_lost() == 0
    sink = life.read_ledger().sinks["hanging"]
    assert sink["waiting"] == sink["closed"] > 0
    return Outcome(sink["waiting"], seconds)


def finish_job(life: Life) -> Outcome:
    """The main container ends while the sidecar runs, which is told to end then."""
    life.start_daemon()
    life.wait_until_accepting()
    life.start_service("--events", "3000")
    life.await_service()
    assert life.daemon.is_running()
    seconds = life.end_daemon()
    return Outcome(life.count_lost(), seconds)


# ---- parts of these


def _go_on(life: Life, began: float) -> Outcome:
    """Start the next daemon; the time goes from the last one's death to the first event taken again."""
    life.start_daemon()
    sent = life.notes.sent
    life.wait_until_sent(sent + 1)
    return life.finish(since(began))


def _step_clock(life: Life, by_s: float) -> Outcome:
    """Step the clock of both containers; the time goes to the first window of the new time."""
    offset = life.pod.results.seen / "offset"
    offset.write_bytes(struct.pack("d", 0.0))
    environ: Mapping[str, str] = {
        **add_import_path(ROOT / "tests" / "pod" / "step_clock"),
        "CLOCK_OFFSET": str(RESULTS / "offset"),
    }
    life.begin(environ=environ)
    stepped = time.time() + by_s
    began = time.monotonic()
    with offset.open("r+b") as file:
        file.write(struct.pack("d", by_s))

    def has_arrived() -> bool:
        return any(abs(row.window_start - stepped) < abs(by_s) / 2 for row in life.rows())

    life.wait("a window of the new time", has_arrived)
    return life.finish(since(began))


def _begin_hanging(life: Life) -> None:
    """Let the service record, and end, while a backend takes nothing."""
    life.begin()
    life.end_service()


def _find_again(life: Life, seconds: float) -> Outcome:
    """Start the next daemon, which has what waits, and end it; it gives back what it cannot deliver, too."""
    life.start_daemon()
    life.wait("the log", lambda: life.read_log("listening"))
    life.end_daemon()
    sink = life.read_ledger().sinks["hanging"]
    rows = life.rows()
    # Every series of every window, as the other sink got them.
    assert sink["waiting"] == sink["closed"] == len(rows) > 0
    return Outcome(life.count_lost(), seconds)


__all__ = [
    "delete_pod",
    "delete_pod_with_hanging_backend",
    "finish_job",
    "keep_stale_socket",
    "kill_both",
    "kill_daemon",
    "kill_daemon_without_state",
    "kill_with_hanging_backend",
    "reach_memory_limit",
    "start_daemon_first",
    "start_service_first",
    "start_slowly",
    "step_clock_back",
    "step_clock_forward",
    "stop_before_event_loop",
    "stop_during_import",
    "stop_twice",
    "stop_with_hanging_backend",
]
