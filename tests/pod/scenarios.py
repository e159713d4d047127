"""What happens to a pod and what it costs: the list that page, tests and command share."""

from collections.abc import Callable

from msgspec import Struct

from tests.pod import happenings
from tests.pod.life import Life, Outcome, open_life
from tests.pod.pod import SILENT_PORT

# Over HTTP a request waits for its answer; over gRPC a silent backend is a failed connection.
HANGING = f"""
[sinks.hanging]
type = "opentelemetry"
protocol = "http/protobuf"
endpoint = "http://127.0.0.1:{SILENT_PORT}"
"""


class Scenario(Struct, frozen=True):
    """One row of the page.

    Attributes:
        title: what happens.
        live: makes it happen.
        until: what the seconds go to.
        loses: what is lost, and who counts it; "" where nothing is.
        state: whether the daemon has a state directory.
        top: settings of the daemon.
        sinks: more sinks than the file of windows.
    """

    title: str
    live: Callable[[Life], Outcome]
    until: str
    loses: str = ""
    state: bool = True
    top: str = ""
    sinks: str = ""

    def run(self) -> Outcome:
        """Have it happen in a pod of its own; skip the test where there can be none."""
        with open_life(top=self.top, sinks=self.sinks, state=self.state) as life:
            return self.live(life)


_ACCEPTS, _TAKES = "the socket accepts", "events are taken again"
_ENDED, _WINDOW = "the daemon has ended", "the first window of the new time"

SCENARIOS = (
    Scenario("the daemon starts first", happenings.start_daemon_first, _ACCEPTS),
    Scenario("the service starts first", happenings.start_service_first, "its events are taken"),
    Scenario("slow start: a tenth of a CPU", happenings.start_slowly, _ACCEPTS),
    Scenario("the daemon is killed, with `state_dir`", happenings.kill_daemon, _TAKES),
    Scenario(
        "the daemon is killed, without `state_dir`",
        happenings.kill_daemon_without_state,
        _TAKES,
        loses="events of open windows and in the queue; for the next daemon they are part of `before`",
        state=False,
    ),
    Scenario(
        "daemon and service are killed",
        happenings.kill_both,
        "events of the next service are taken",
        loses="events that the service still had; whatever was acknowledged is counted",
    ),
    Scenario("a stale socket is in the volume", happenings.keep_stale_socket, _TAKES),
    Scenario("the memory limit is reached", happenings.reach_memory_limit, _TAKES),
    Scenario("the clock steps an hour forward", happenings.step_clock_forward, _WINDOW),
    Scenario("the clock steps ten minutes back", happenings.step_clock_back, _WINDOW),
    Scenario("SIGTERM during import, as process 1", happenings.stop_during_import, _ENDED),
    Scenario("SIGTERM before the event loop runs", happenings.stop_before_event_loop, _ENDED, state=False),
    Scenario(
        "SIGTERM with a backend that hangs, `shutdown_timeout_s = 1`",
        happenings.stop_with_hanging_backend,
        _ENDED,
        top="shutdown_timeout_s = 1",
        sinks=HANGING,
    ),
    Scenario(
        "SIGTERM with a backend that hangs, and SIGKILL 2 s later",
        happenings.kill_with_hanging_backend,
        "all else is delivered and stored",
        sinks=HANGING,
    ),
    Scenario("SIGTERM twice", happenings.stop_twice, "the second has ended the daemon", sinks=HANGING),
    Scenario("the pod is deleted", happenings.delete_pod, "service and daemon have ended"),
    Scenario(
        "the pod is deleted while a backend hangs",
        happenings.delete_pod_with_hanging_backend,
        _ENDED,
        loses="snapshots of this backend, named in the last log line",
        top="shutdown_timeout_s = 1",
        sinks=HANGING,
    ),
    Scenario("the main container of a Job ends", happenings.finish_job, _ENDED),
)


__all__ = ["SCENARIOS", "Scenario"]
