"""A sink whose backend comes and reads: what the page asks of it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from aiokpl_metricsd.aggregating.open_windows import OpenWindows
from aiokpl_metricsd.configuring.place import Place, quote_key
from aiokpl_metricsd.rendering.exposition import Form
from aiokpl_metricsd.serving.door import describe_missing, is_installed


@runtime_checkable
class ScrapedSink(Protocol):
    """A sink that keeps totals and shows them on the daemon's page."""

    @property
    def refused(self) -> Mapping[str, int]:
        """Snapshots that are not shown, by reason."""
        ...

    @property
    def series_count(self) -> int:
        """Series that are shown."""
        ...

    def join_page(self, windows: OpenWindows | None, beside: Collection[str]) -> None:
        """Count open windows as well from now on, and leave out what stands beside it on the page.

        Args:
            windows: what is open; None where the sink's windows are longer than the daemon's.
            beside: names of metrics that the page has already.
        """
        ...

    def see_open(self) -> Iterator[str]:
        """See what is open, so that the page has it also while it closes; in slices, an item after each."""
        ...

    def render(self, form: Form) -> Iterator[str]:
        """Return the sink's part of the page, in slices; other work may run between two of them."""
        ...


def find_scraped(sinks: Iterable[tuple[str, object]], place: Place) -> dict[str, ScrapedSink]:
    """Return the sink that is scraped, by its name; nothing where none is.

    Args:
        sinks: by name, built.
        place: of the table of all sinks.

    Raises:
        ConfigurationError: two sinks want the same page, or nothing is installed that could serve it.
    """
    scraped = {name: sink for name, sink in sinks if isinstance(sink, ScrapedSink)}
    if len(scraped) > 1:
        raise place.error("one page shows one sink; remove the others", " and ".join(map(quote_key, scraped)))
    # Also without a TCP address: the page is on admin.sock as well, and nowhere at all without the package.
    for name in scraped:
        if not is_installed():
            raise place.below(name).error(f"its page cannot be served: {describe_missing()}")
    return scraped


__all__ = ["ScrapedSink", "find_scraped"]
