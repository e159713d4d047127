"""What a sink is: the two interfaces, and what a repeat does to its backend."""

from collections.abc import Sequence
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, runtime_checkable

from aiokpl_metrics_protocol import MetricEvent
from aiokpl_metricsd.snapshot import MetricSnapshot

if TYPE_CHECKING:
    # Only for its type: it takes milliseconds to import.
    from ssl import SSLContext


class RepeatRule(StrEnum):
    """What happens in a backend that is sent the same snapshots twice.

    A sink declares it as the class attribute `repeat_rule`; one that does not is taken to add.
    """

    REPLACES = "replaces"
    ADDS = "adds"
    CUMULATIVE = "cumulative"


@runtime_checkable
class MetricsSink(Protocol):
    """Takes the snapshots of closed windows to a backend.

    A sink may also have these attributes, which are read before it is entered:

    * `repeat_rule`: a `RepeatRule`;
    * `ordered`: True asks for windows oldest first;
    * `max_age_s`: seconds after its end for which the backend takes a window;
    * `max_batch`: snapshots that one `export` is given at most. A window of more is cut into batches, which
      are stored, sent, and marked as done one by one, so that less is sent again after a crash. None, or no
      such attribute, asks for whole windows;
    * `spread`: True where the daemons of a fleet share the backend: they then export one after the other.
    """

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Make one attempt to deliver; the snapshots are of one window, each series of it at most once.

        Raises:
            RetryableExportError: try the same again later.
            PermanentExportError: the same will be refused again.
            PartialExportError: some were taken; says which to try again and which never.
        """
        ...

    async def __aenter__(self) -> Self:
        """Open what `export` needs."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close what `__aenter__` opened."""
        ...


@runtime_checkable
class RememberingSink(Protocol):
    """A sink with something to remember across restarts, as totals of its own.

    What it remembers is stored together with the marks of what it has taken, in one transaction. So after a
    crash it goes on from the state in which it had taken what is marked, and nothing else; what came after is
    exported once more.
    """

    def dump_state(self) -> bytes:
        """Return what the next daemon's sink needs, as it is after the last export that returned.

        Called after entering and after each batch, so it should be quick; in another thread, while no export
        is under way.
        """
        ...

    def load_state(self, state: bytes) -> None:
        """Go on from what `dump_state` returned. Called before entering; may raise at what it cannot read."""
        ...


@runtime_checkable
class EventfulMetricsSink(Protocol):
    """A sink that wants each event as well."""

    def record(self, event: MetricEvent) -> None:
        """Take one event, at once: this runs where events arrive."""
        ...


class Endpoint(NamedTuple):
    """Where a backend listens, for whoever looks whether it can be reached.

    Attributes:
        host: a name or an address, without brackets.
        port: of TCP.
        tls: how to greet it; None where it speaks without TLS.
        speaks_http: it answers a HEAD request, in HTTP/1.1, with its date.
    """

    host: str
    port: int
    tls: "SSLContext | None" = None
    speaks_http: bool = False


@runtime_checkable
class LocatedSink(Protocol):
    """A sink whose backend is somewhere on the network."""

    async def locate(self) -> Endpoint | None:
        """Return where the backend is, without asking it; None where that is nowhere to be reached by TCP.

        Called on a sink that was not entered.

        Raises:
            ConfigurationError: an option or a variable cannot be used.
        """
        ...


@runtime_checkable
class ProbingSink(Protocol):
    """A sink that can ask its backend whether it would take what it is sent."""

    async def probe(self, timeout_s: float) -> str:
        """Ask, change nothing there, and say in a few words what came of it.

        Called on a sink that was not entered.

        Args:
            timeout_s: how long that may take; it is cancelled a little later.

        Raises:
            ConfigurationError: an option, a variable or a file cannot be used.
            ExportError: the backend would not take it, or did not answer.
        """
        ...


__all__ = [
    "Endpoint",
    "EventfulMetricsSink",
    "LocatedSink",
    "MetricsSink",
    "ProbingSink",
    "RememberingSink",
    "RepeatRule",
]
