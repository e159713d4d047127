"""Configuration -> what `aiokpl-metricsd check` says of it. Builds the sinks, enters none, opens nothing.

What the start refuses is refused here, in the same order and the same words, but for what only an open
socket can tell: that a path or an address is taken, or is not this user's to have.

A sink may have `async def check(self) -> None`, which looks for what entering will need, as keys and
packages, and raises `ConfigurationError`; and `estimate`, as the module `estimate` has it.
"""

from collections.abc import Sequence

from aiokpl_metrics_protocol import socket_candidates
from aiokpl_metricsd.config import Configuration, find_sinks_place
from aiokpl_metricsd.configuring.secrecy import redact
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivering.settings import build_settings
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.estimate import EstimatingSink, decode_series, estimate
from aiokpl_metricsd.listener import check_place
from aiokpl_metricsd.serving.door import check_installed
from aiokpl_metricsd.sinks.contract import MetricsSink
from aiokpl_metricsd.sinks.loading import SinkOptions, build_sink
from aiokpl_metricsd.sinks.scraped import find_scraped
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.state import check_state_dir


def inspect_configuration(configuration: Configuration, series_from: str | None = None) -> list[str]:
    """Check what the start would, and every sink; return the lines about their cost.

    Args:
        configuration: as loaded.
        series_from: the path of a file that the sink `jsonl` wrote; None for no estimate.

    Raises:
        ConfigurationError: the daemon could not start, a sink is not ready, or the file cannot be used.
    """
    sinks = _build_sinks(configuration)
    series = None if series_from is None else read_series(series_from)
    lines: list[str] = []
    for name, sink in sinks.items():
        options = configuration.sinks[name]
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


def _build_sinks(configuration: Configuration) -> dict[str, MetricsSink]:
    """Return the sinks of a daemon that can start."""
    ingest = configuration.ingest
    candidates = socket_candidates() if ingest.socket is None else (ingest.socket,)
    check_place(candidates, group=ingest.group, lane=configuration.state_dir is not None)
    check_installed(configuration.http.listen)
    sinks = {name: build_sink(options) for name, options in configuration.sinks.items()}
    for name, options in configuration.sinks.items():
        build_settings(options, sinks[name], configuration.interval_s)
    find_scraped(sinks.items(), find_sinks_place(configuration))
    check_state_dir(configuration.state_dir)
    return sinks


def _check_sink(sink: MetricsSink, options: SinkOptions) -> None:
    check = getattr(sink, "check", None)
    if check is None:
        return
    import anyio

    try:
        anyio.run(check)
    except Exception as error:  # noqa: BLE001 - a sink may raise anything; it is the operator's to mend
        is_ours = isinstance(error, ConfigurationError)
        text = str(error) if is_ours else f"the check failed: {type(error).__name__}: {error}"
        # Without the cause: its traceback may show a secret.
        raise options.place.error(redact(text, options.secrets)) from None


def _build_selection(options: SinkOptions) -> Selection:
    return Selection(options.level, options.include, options.exclude, options.drop_dimensions)


__all__ = ["inspect_configuration", "read_series"]
