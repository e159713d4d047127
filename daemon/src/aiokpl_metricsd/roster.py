"""Configuration -> the sinks of one daemon: built, given events and a place on the page; exchanged on reload.

A reload starts, stops or replaces sinks, and nothing else: not the socket, not the windows, not the other
sinks. Everything that could be wrong with the new configuration is found before the first sink is touched.
"""

import asyncio
import logging
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.config import Configuration, find_sinks_place
from aiokpl_metricsd.delivering.settings import SinkSettings, build_settings
from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.serving.observer import name_own_metrics
from aiokpl_metricsd.serving.view import SelectedWindows
from aiokpl_metricsd.sinks.contract import EventfulMetricsSink
from aiokpl_metricsd.sinks.loading import SinkOptions, build_sink
from aiokpl_metricsd.sinks.scraped import ScrapedSink, find_scraped
from aiokpl_metricsd.tap import Outlet, Tap

_log = logging.getLogger("aiokpl_metricsd.roster")

# What a reload takes over; a change of anything else is reported as needing a restart.
_RELOADED = frozenset({"sinks"})

# What two tables of a sink may differ in without being another sink.
_NO_SETTING = frozenset({"hidden", "place", "secrets", "warnings"})


class Changes(Struct, frozen=True):
    """What a reload would do.

    Attributes:
        added: names of sinks that are new.
        removed: names of sinks that are gone.
        replaced: names of sinks of which anything has changed.
        restart: keys that have changed and take effect with the next start.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


class Roster:
    """The sinks of one daemon.

    Args:
        configuration: what the operator decided.
        registry: knows the series of events.
        aggregator: has the open windows.
        clock: monotonic seconds.

    Attributes:
        settings: how each sink is served, by its name.
        scraped: the sink that is on the page, by its name.
        tap: gives events to the sinks that want them.

    Raises:
        ConfigurationError: a sink cannot be built, or two want the same page.
    """

    def __init__(
        self,
        configuration: Configuration,
        registry: Registry,
        aggregator: Aggregator,
        clock: Callable[[], float],
    ) -> None:
        """Build every sink; none is entered."""
        self._configuration = configuration
        self._aggregator = aggregator
        self._turn = asyncio.Lock()
        self.settings = {
            name: _build(options, configuration.interval_s) for name, options in configuration.sinks.items()
        }
        self.scraped = self._find_scraped(configuration, self.settings)
        self.tap = Tap(registry, [], clock)
        for name in self.settings:
            self._settle(name)

    async def reload(self, load: Callable[[], Configuration], delivery: Delivery) -> Changes | None:
        """Exchange the sinks for those of a new configuration; one reload at a time.

        Args:
            load: reads it, in a thread, since sinks' packages may have to be imported.
            delivery: of these sinks, which runs.

        Returns:
            What was done; None where the configuration cannot be used: that is logged, and nothing changes.
        """
        async with self._turn:
            try:
                configuration = keep_interval(self._configuration, await asyncio.to_thread(load))
                changes = compare(self._configuration, configuration)
                built = self._build_changed(configuration, changes)
            except ConfigurationError as error:
                message = "the configuration cannot be reloaded, and nothing is changed"
                _log.error(message, extra={"fields": {"error": str(error)}})
                return None
            await self._exchange(changes, built, delivery)
            self._configuration = replace(self._configuration, sinks=configuration.sinks)
        named = (("added", changes.added), ("removed", changes.removed), ("replaced", changes.replaced))
        shown = {word: list(names) for word, names in named if names}
        _log.info("the configuration is reloaded", extra={"fields": shown})
        if changes.restart:
            message = "these settings have changed, and take effect with the next start"
            _log.warning(message, extra={"fields": {"settings": list(changes.restart)}})
        return changes

    def _build_changed(self, configuration: Configuration, changes: Changes) -> dict[str, SinkSettings]:
        """Return the new sinks by name, built, with what stays seen beside them.

        Raises:
            ConfigurationError: one cannot be built, or they cannot be together.
        """
        built: dict[str, SinkSettings] = {}
        base_s = self._configuration.interval_s
        for name in (*changes.added, *changes.replaced):
            options = configuration.sinks[name]
            if options.interval_s % base_s:
                raise options.place.error(
                    f"expected a multiple of the running daemon's {base_s}, found {options.interval_s}; "
                    "restart the daemon to change its interval_s",
                    "interval_s",
                )
            built[name] = _build(options, base_s)
        staying = {name: self.settings[name] for name in configuration.sinks if name not in built}
        self._find_scraped(configuration, {**staying, **built})
        return built

    async def _exchange(self, changes: Changes, built: dict[str, SinkSettings], delivery: Delivery) -> None:
        for name in changes.removed:
            del self.settings[name]
            self._leave(name)
            await delivery.remove(name)
        for name in changes.replaced:
            self._leave(name)
            self.settings[name] = built[name]
            await delivery.replace(built[name])
            self._settle(name)
        for name in changes.added:
            self.settings[name] = built[name]
            await delivery.add(built[name])
            self._settle(name)

    def _find_scraped(
        self, configuration: Configuration, settings: dict[str, SinkSettings]
    ) -> dict[str, ScrapedSink]:
        sinks = [(name, each.sink) for name, each in settings.items()]
        return find_scraped(sinks, find_sinks_place(configuration))

    def _settle(self, name: str) -> None:
        """Give a sink the events and the place on the page that it wants."""
        each = self.settings[name]
        if isinstance(each.sink, EventfulMetricsSink):
            self.tap.outlets = (*self.tap.outlets, Outlet(name, each.selection, each.sink.record))
        if isinstance(each.sink, ScrapedSink):
            # Its own longer windows are not the daemon's, so it shows the closed ones alone.
            is_base = each.selection.interval_s is None
            view = SelectedWindows(self._aggregator, each.selection) if is_base else None
            each.sink.join_page(view, name_own_metrics())
            self.scraped[name] = each.sink

    def _leave(self, name: str) -> None:
        """Take the events and the place on the page from a sink."""
        self.tap.outlets = tuple(outlet for outlet in self.tap.outlets if outlet.name != name)
        self.scraped.pop(name, None)


def keep_interval(old: Configuration, new: Configuration) -> Configuration:
    """Return the new configuration with the sinks that follow the base interval following the running one."""
    sinks = {
        name: replace(options, interval_s=old.interval_s) if options.interval_s == new.interval_s else options
        for name, options in new.sinks.items()
    }
    return replace(new, sinks=sinks)


def compare(old: Configuration, new: Configuration) -> Changes:
    """Return what makes the one configuration the other."""
    common = [name for name in new.sinks if name in old.sinks]
    return Changes(
        added=tuple(name for name in new.sinks if name not in old.sinks),
        removed=tuple(name for name in old.sinks if name not in new.sinks),
        replaced=tuple(name for name in common if _read(old.sinks[name]) != _read(new.sinks[name])),
        restart=tuple(
            name
            for name in Configuration.__struct_fields__
            if name not in _RELOADED and getattr(old, name) != getattr(new, name)
        ),
    )


def _read(options: SinkOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in SinkOptions.__struct_fields__ if name not in _NO_SETTING}


def _build(options: SinkOptions, base_s: int) -> SinkSettings:
    return build_settings(options, build_sink(options), base_s)


__all__ = ["Changes", "Roster", "compare", "keep_interval"]
