"""What is done to the daemon and its producers while they work. Each round is one trial.

A round gets a number of troubles to make, and a function that it calls after each.
"""

import signal
import time
from collections.abc import Callable, Mapping

from tests.crash.trial import GRACE_S, Trial

PRODUCERS = 4

# Before the next trouble, counted from the daemon's start: into its start, its replay, and its first windows.
_MOST_UNTIL_KILLED_S = 2.0

_MOST_AWAY_S = 0.5

# Windows of a second close within a quarter of a second after their grace.
_CLOSING_S = 0.35

# From the new segment of the journal, by which a checkpoint begins, to the end of the old one; and how long
# to wait for that, in a daemon that has just been started.
_CHECKPOINT_S = 0.02
_MOST_UNTIL_CHECKPOINT_S = 3.0

# While the configuration is read and sinks are replaced.
_MOST_RELOADING_S = 0.2

_LEAST_STOPPED_S, _MOST_STOPPED_S = 0.5, 4.0
_MOST_BETWEEN_STOPS_S = 2.0

# With the daemon stopped: long enough for frames to queue up in a lane.
_MOST_QUEUED_S = 0.6

Told = Callable[[int], None]
Round = Callable[[Trial, int, Told], None]


def kill(trial: Trial, troubles: int, tell: Told) -> None:
    """SIGKILL at random moments, and start again: at once, or after a while."""
    _begin(trial)
    for number in range(troubles):
        time.sleep(trial.random.uniform(0.0, _MOST_UNTIL_KILLED_S))
        if number % 3 == 1:
            # Where most happens: windows close, are stored, exported, marked.
            moment = trial.random.uniform(GRACE_S, GRACE_S + _CLOSING_S)
            time.sleep((moment - time.time()) % 1.0)
        elif number % 3 == 2:
            trial.wait_for_checkpoint(_MOST_UNTIL_CHECKPOINT_S)
            time.sleep(trial.random.uniform(0.0, _CHECKPOINT_S))
        trial.kill_daemon()
        time.sleep(trial.random.choice((0.0, trial.random.uniform(0.0, _MOST_AWAY_S))))
        trial.start_daemon()
        tell(number + 1)
    trial.finish()


def terminate(trial: Trial, troubles: int, tell: Told) -> None:
    """SIGTERM at random moments, now and then in the midst of the start."""
    _begin(trial)
    for number in range(troubles):
        time.sleep(trial.random.uniform(0.0, _MOST_UNTIL_KILLED_S))
        trial.stop_daemon()
        time.sleep(trial.random.choice((0.0, trial.random.uniform(0.0, _MOST_AWAY_S))))
        trial.start_daemon()
        tell(number + 1)
    trial.finish()


def stop(trial: Trial, troubles: int, tell: Told) -> None:
    """SIGSTOP for seconds, then SIGCONT, and now and then SIGKILL in its place."""
    _begin(trial)
    for number in range(troubles):
        time.sleep(trial.random.uniform(0.0, _MOST_BETWEEN_STOPS_S))
        trial.daemon.send_signal(signal.SIGSTOP)
        time.sleep(trial.random.uniform(_LEAST_STOPPED_S, _MOST_STOPPED_S))
        if number % 3 == 2:
            trial.kill_daemon()
            trial.start_daemon()
            trial.wait_until_listening()
        else:
            trial.daemon.send_signal(signal.SIGCONT)
        tell(number + 1)
    trial.finish()


def reload(trial: Trial, troubles: int, tell: Told) -> None:
    """SIGHUP with another configuration, and now and then SIGKILL in the midst of it."""
    _begin(trial)
    for number in range(troubles):
        trial.reload_daemon()
        if number % 3 == 2:
            time.sleep(trial.random.uniform(0.0, _MOST_RELOADING_S))
            trial.kill_daemon()
            trial.start_daemon()
        else:
            time.sleep(trial.random.uniform(0.0, _MOST_UNTIL_KILLED_S))
        tell(number + 1)
    trial.finish()


def orphan(trial: Trial, troubles: int, tell: Told) -> None:
    """SIGKILL producers whose frames wait in their lanes, as the daemon is stopped meanwhile."""
    trial.start_daemon()
    trial.wait_until_listening()
    trial.start_producers(PRODUCERS, shares=False)
    time.sleep(1.0)
    done = 0
    while done < troubles:
        trial.daemon.send_signal(signal.SIGSTOP)
        time.sleep(trial.random.uniform(0.0, _MOST_QUEUED_S))
        chosen = trial.random.sample(trial.producers, min(trial.random.randint(1, 2), troubles - done))
        for producer in chosen:
            trial.kill_producer(producer)
        trial.daemon.send_signal(signal.SIGCONT)
        for _ in chosen:
            trial.start_producer()
        done += len(chosen)
        time.sleep(trial.random.uniform(0.3, 1.2))
        tell(done)
    trial.finish()


ROUNDS: Mapping[str, Round] = {
    "kill": kill,
    "terminate": terminate,
    "stop": stop,
    "reload": reload,
    "orphan": orphan,
}


def _begin(trial: Trial) -> None:
    trial.start_daemon()
    trial.wait_until_accepting()
    trial.start_producers(PRODUCERS, shares=True)


__all__ = ["PRODUCERS", "ROUNDS", "Round", "Told"]
