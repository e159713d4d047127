"""What a process tells its senders at its end, and what it asks of multiprocessing."""

import multiprocessing.util
import sys

import pytest

from aiokpl_metrics_client import process


class Member:
    """A sender that takes its time."""

    def __init__(self, clock: "Clock", takes_s: float) -> None:
        self.given: list[tuple[float, float | None]] = []
        self.forks = 0
        self.is_last = False
        self._clock = clock
        self._takes_s = takes_s

    def flush(self, timeout_s: float, away_timeout_s: float | None = None) -> bool:
        """Note what it was given, and take time."""
        self.given.append((timeout_s, away_timeout_s))
        self._clock.now += self._takes_s
        return False

    def send_at_once(self) -> None:
        """Note it."""
        self.is_last = True

    def after_fork_in_child(self) -> None:
        """Note it."""
        self.forks += 1


class Clock:
    """A monotonic clock."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


def test_all_senders_together_get_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    first, second = Member(clock, 2.0), Member(clock, 2.0)
    monkeypatch.setattr(process, "Clock", clock)
    monkeypatch.setattr(process, "read_members", lambda: [first, second])
    monkeypatch.setattr(process, "_spent_s", 0.0)
    process._flush_all()
    assert first.is_last
    assert second.is_last
    assert first.given == [(process.EXIT_TIMEOUT_S, process.EXIT_AWAY_TIMEOUT_S)]
    assert second.given == [(process.EXIT_TIMEOUT_S - 2.0, process.EXIT_AWAY_TIMEOUT_S - 2.0)]
    # Of another hook that the same end runs, the same.
    process._flush_all()
    assert first.given[1:] == [(process.EXIT_TIMEOUT_S - 4.0, process.EXIT_AWAY_TIMEOUT_S - 4.0)]


def test_a_sender_that_fails_keeps_no_other_from_its_flush_or_its_new_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(Member):
        def flush(self, timeout_s: float, away_timeout_s: float | None = None) -> bool:
            raise AttributeError("poll")

        def after_fork_in_child(self) -> None:
            raise AttributeError("poll")

    monkeypatch.setattr(process, "_spent_s", 0.0)
    clock = Clock()
    other = Member(clock, 0.0)
    monkeypatch.setattr(process, "read_members", lambda: [Failing(clock, 0.0), other])
    process._flush_all()
    with process._loading:
        # As the hook before a fork.
        process._loading.acquire()
        process._after_fork_in_child()
    assert (len(other.given), other.forks) == (1, 1)


def test_a_module_that_is_only_half_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "multiprocessing.util", type(sys)("half"))
    process._follow_multiprocessing()
    monkeypatch.delitem(sys.modules, "multiprocessing.util")
    process._follow_multiprocessing()


def test_multiprocessing_is_asked_once_to_tell_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(process, "_finalizer_follows_fork", False)
    monkeypatch.setattr(multiprocessing.util, "register_after_fork", lambda *given: asked.append(given))
    monkeypatch.setattr(
        multiprocessing.util, "Finalize", lambda *_given, exitpriority: asked.append(exitpriority)
    )
    process._follow_multiprocessing()
    process._follow_multiprocessing()
    assert asked == [(process._anchor, process._add_finalizer), -1_000, -1_000]
