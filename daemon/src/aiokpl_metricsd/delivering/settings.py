"""How one sink is served, from what the operator wrote and what the sink declares."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivering.spread import choose_hold, choose_spread, find_identity
from aiokpl_metricsd.sinks.contract import MetricsSink, RepeatRule
from aiokpl_metricsd.sinks.loading import DEFAULT_TIMEOUT_S, SinkOptions


class SinkSettings(Struct, frozen=True, kw_only=True):
    """How one sink is served.

    Attributes:
        name: the sink's, unique.
        sink: makes one attempt at each call of `export`.
        selection: what it sees.
        timeout_s: the limit of one attempt, and of entering the sink.
        max_windows: how many windows may wait in memory; past it the oldest is dropped. What is in the outbox
            does not count.
        max_snapshots: how many snapshots may wait in memory in all; past it the oldest window is dropped. A
            million are about 220 MB, shared between sinks that see the same.
        max_age_s: how old a window may become, from its end; None for any age.
        catch_up_s: at least so long between two windows of the backlog; unordered sinks only.
        at_most_once: nothing is sent a second time where the first may have been taken.
        hold_s: so long a window that has just closed waits before it is sent; not at a shutdown.
        secrets: texts that no description of an error may show.
    """

    name: str
    sink: MetricsSink
    selection: Selection
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_windows: int = 60
    max_snapshots: int = 1_000_000
    max_age_s: float | None = None
    catch_up_s: float = 1.0
    at_most_once: bool = False
    hold_s: float = 0.0
    secrets: tuple[str, ...] = ()

    @property
    def adds(self) -> bool:
        """Whether the backend adds what it is sent twice."""
        return getattr(self.sink, "repeat_rule", RepeatRule.ADDS) == RepeatRule.ADDS

    @property
    def is_ordered(self) -> bool:
        """Whether the sink wants the oldest window first."""
        return bool(getattr(self.sink, "ordered", False))

    @property
    def max_batch(self) -> int | None:
        """Snapshots that the sink takes at once; None for whole windows."""
        max_batch: int | None = getattr(self.sink, "max_batch", None)
        return max_batch


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a test replaces.

    Attributes:
        clock: monotonic seconds.
        wall_clock: epoch seconds.
        random: a number in `[0, 1)`.
        sleep: waits so many seconds.
    """

    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    random: Callable[[], float]
    sleep: Callable[[float], Awaitable[Any]]


def build_settings(options: SinkOptions, sink: MetricsSink, base_interval_s: int) -> SinkSettings:
    """Return how a configured sink is served.

    Args:
        options: the sink's table.
        sink: built of them.
        base_interval_s: the daemon's own interval.

    Raises:
        ConfigurationError: `at_most_once` for a sink where a repeat does not add.
    """
    settings = SinkSettings(
        name=options.name,
        sink=sink,
        selection=Selection(
            level=options.level,
            include=options.include,
            exclude=options.exclude,
            drop_dimensions=options.drop_dimensions,
            interval_s=options.interval_s if options.interval_s > base_interval_s else None,
        ),
        timeout_s=options.timeout_s,
        max_age_s=choose_max_age(sink, options.max_age_s),
        at_most_once=options.at_most_once,
        hold_s=_choose_hold(options, sink),
        secrets=options.secrets,
    )
    if settings.at_most_once and not settings.adds:
        raise options.place.error(
            "a repeat does not add here, so nothing needs to be given up; leave it out", "at_most_once"
        )
    return settings


def _choose_hold(options: SinkOptions, sink: MetricsSink) -> float:
    spread_s = choose_spread(options.spread_s, sink, options.interval_s)
    return choose_hold(spread_s, find_identity(os.environ), options.name)


def choose_max_age(sink: object, max_age_s: float | None) -> float | None:
    """Return the shorter of what the sink's backend takes and what the operator wants; None for any age."""
    own: float | None = getattr(sink, "max_age_s", None)
    return min((age for age in (own, max_age_s) if age is not None), default=None)


__all__ = ["SinkSettings", "Surroundings", "build_settings", "choose_max_age"]
