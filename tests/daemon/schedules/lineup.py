"""Which sinks a schedule's daemons have, and how they are served."""

from collections.abc import Callable, Sequence
from typing import Any

from aiokpl_metricsd.configuring.place import Place
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.sinks.loading import SinkOptions
from tests.daemon.schedules.backends import Traits

INTERVAL_S = 4
TIMEOUT_S = 3.0

# These sinks are always there.
STANDING = {
    "adds": Traits(max_batch=2),
    "keyed": Traits(RepeatRule.REPLACES),
    "long": Traits(interval_s=12, drop_dimensions=("d",)),
}
# These come and go; to rename one is to remove it and add another.
OPTIONAL = {
    "ordered": Traits(ordered=True),
    "ordered2": Traits(ordered=True, max_batch=3),
    "once": Traits(at_most_once=True, max_batch=2, max_age_s=60.0),
    "file": Traits(remembers=True, ordered=True),
    "longer": Traits(RepeatRule.REPLACES, interval_s=8),
}
TRAITS = {**STANDING, **OPTIONAL}


class Lineup:
    """The sinks of the configuration.

    Args:
        factories: make the sinks, by their names.

    Attributes:
        configured: those that are there.
        removed: those that were removed; an account begins anew when nothing is left of the sink.
    """

    def __init__(self, factories: dict[str, Callable[[], Any]]) -> None:
        self.configured = {*STANDING, "ordered", "file"}
        self.removed: set[str] = set()
        self._factories = factories
        self._timeouts = dict.fromkeys(TRAITS, TIMEOUT_S)

    def change(self, names: Sequence[str]) -> None:
        """Remove these sinks, or add them; serve one that stands by another setting."""
        for name in names:
            if name in STANDING:
                self._timeouts[name] = 2 * TIMEOUT_S - 1.0 - self._timeouts[name]
            elif name in self.configured:
                self.configured.discard(name)
                self.removed.add(name)
            else:
                self.configured.add(name)

    def build_options(self) -> dict[str, SinkOptions]:
        """Return the sinks' tables."""
        place = Place("schedule.toml", ("sinks",))
        sinks: dict[str, SinkOptions] = {}
        for name in sorted(self.configured):
            traits = TRAITS[name]
            sinks[name] = SinkOptions(
                name=name,
                type="t",
                factory=self._factories[name],
                interval_s=traits.interval_s,
                drop_dimensions=traits.drop_dimensions,
                timeout_s=self._timeouts[name],
                max_age_s=traits.max_age_s,
                at_most_once=traits.at_most_once,
                place=place.below(name),
            )
        return sinks


__all__ = ["INTERVAL_S", "OPTIONAL", "STANDING", "TIMEOUT_S", "TRAITS", "Lineup"]
