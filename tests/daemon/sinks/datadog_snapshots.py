"""Snapshots and sinks for the tests of the Datadog sink."""

import os
import time
from collections.abc import Sequence
from typing import Any

import pytest

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.sinks.datadog.sink import DatadogSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.datadog_intake import DatadogIntake

Dimensions = tuple[tuple[str, str], ...]


def build_snapshot(
    name: str,
    value: float,
    *,
    dimensions: Dimensions = (),
    kind: MetricKind = MetricKind.COUNTER,
    unit: str | None = None,
    end: float | None = None,
    window_id: str = "w",
) -> MetricSnapshot:
    """Return a snapshot of one event in the minute that just ended."""
    stop = window_end() if end is None else end
    return MetricSnapshot(
        name, 1, value, value, value, dimensions, stop - 60.0, stop, kind, unit, value, None, window_id
    )


def build_histogram(
    name: str,
    values: Sequence[float],
    *,
    dimensions: Dimensions = (),
    unit: str | None = None,
    window_id: str = "w",
) -> MetricSnapshot:
    """Return a histogram of the values in the minute that just ended."""
    histogram = Histogram()
    histogram.add_values(list(values), min(values), max(values))
    end = window_end()
    return MetricSnapshot(
        name,
        len(values),
        sum(values),
        min(values),
        max(values),
        dimensions,
        end - 60.0,
        end,
        MetricKind.HISTOGRAM,
        unit,
        values[-1],
        histogram.freeze(),
        window_id,
    )


def window_end() -> float:
    """Return the end of the minute that just ended: the same for a whole test, mostly."""
    return time.time() // 60 * 60.0


def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of the machine's own settings reach the sink."""
    for name in list(os.environ):
        if name.startswith("DD_") or name in {"POD_NAME", "KUBERNETES_SERVICE_HOST"}:
            monkeypatch.delenv(name)


def build_sink(intake: DatadogIntake, **options: Any) -> DatadogSink:  # noqa: ANN401 - the sink's own
    """Return a sink that sends to the intake."""
    settings: dict[str, Any] = {"api_key": "KEY", "host": "host", "request_timeout_s": 5.0, **options}
    return DatadogSink(endpoint_url=intake.url, **settings)


__all__ = ["build_histogram", "build_sink", "build_snapshot", "clear_environment", "window_end"]
