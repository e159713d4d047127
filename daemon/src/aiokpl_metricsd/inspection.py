"""Configuration -> what `aiokpl-metricsd check` says of its sinks. Builds them, enters none, sends nothing.

A sink may have `async def check(self) -> None`, which looks for what entering will need, as keys and
packages, and raises `ConfigurationError`; and `estimate`, as the module `estimate` has it.
"""

from collections.abc import Sequence

from aiokpl_metricsd.config import Configuration
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.estimate import EstimatingSink, decode_series, estimate
from aiokpl_metricsd.sinks.contract import MetricsSink
from aiokpl_metricsd.sinks.loading import SinkOptions, build_sink
from aiokpl_metricsd.snapshot import MetricSnapshot


def inspect_sinks(configuration: Configuration, series_from: str | None = None) -> list[str]:
    """Build and check every sink and return the lines about their cost.

    Args:
        configuration: as loaded.
        series_from: the path of a file that the sink `jsonl` wrote; None for no estimate.

    Raises:
        ConfigurationError: a sink cannot be built or is not ready, or the file cannot be used.
    """
    series = None if series_from is None else read_series(series_from)
    lines: list[str] = []
    for name, options in configuration.sinks.items():
        sink = build_sink(options)
        _check_sink(sink, options)
        if series is not None and isinstance(sink, EstimatingSink):
            lines += [
                f"{name}: {line}"
                for line in estimate(sink, _build_selection(options), series, options.interval_s)
            ]
    if series is not None and not lines:
        lines.append("no sink knows what its backend charges")
    return lines


def read_series(path: str) -> Sequence[MetricSnapshot]:
    """Return the series in a file.

    Raises:
        ConfigurationError: it cannot be read, or holds something else.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs import time
            return decode_series(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}: expected rows as the sink jsonl writes them: {error}") from None


def _check_sink(sink: MetricsSink, options: SinkOptions) -> None:
    check = getattr(sink, "check", None)
    if check is None:
        return
    import anyio

    try:
        anyio.run(check)
    except ConfigurationError as error:
        raise options.place.error(str(error)) from None


def _build_selection(options: SinkOptions) -> Selection:
    return Selection(options.level, options.include, options.exclude, options.drop_dimensions)


__all__ = ["inspect_sinks", "read_series"]
