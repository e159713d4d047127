"""The backends of the built-in sinks, as the contract suite wants them."""

# ruff: noqa: ANN401 - what backends keep comes out of JSON, protobuf and SDKs

import errno
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.sinks.memory import InMemorySink
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.testing import Answer, Backend, Key, ScriptedSink
from tests.support import datadog_intake, otlp_receiver

PREFIX = "aiokpl."
PATHS = (datadog_intake.SERIES, datadog_intake.DISTRIBUTIONS)


class Totals(dict[Key, float]):
    """Totals by key; what has the same key adds up."""

    def add(self, key: Key, value: float) -> None:
        self[key] = self.get(key, 0.0) + value


def total_snapshots(snapshots: Iterable[MetricSnapshot]) -> Totals:
    totals = Totals()
    for each in snapshots:
        value = each.last if each.kind is MetricKind.GAUGE else each.sum
        totals.add((each.name, each.dimensions, each.window_end), value)
    return totals


def total_lines(lines: Iterable[str]) -> Totals:
    """Read JSON lines, as the console and files have them."""
    totals = Totals()
    for line in lines:
        row = json.loads(line)
        value = row["last"] if row["kind"] == "gauge" else row["sum"]
        totals.add(
            (row["name"], tuple(row["dimensions"].items()), row["window_end"]),
            # A number that is not finite is null.
            value if value is not None else 0.0,
        )
    return totals


class MemoryBackend(Backend):
    """The sink that keeps everything is its own backend."""

    def __init__(self) -> None:
        self.sink = InMemorySink()

    def read(self) -> Mapping[Key, float]:
        return total_snapshots(self.sink.all_snapshots)


class ScriptedBackend(Backend):
    """The fake sink, which can do whatever a sink can."""

    answers = frozenset(Answer)

    def __init__(self) -> None:
        self.sink = ScriptedSink()
        self._hanging = 0

    def answer_next(self, answer: Answer) -> None:
        async def take_half(batch: Any) -> None:
            half = len(batch) // 2
            self.sink.taken.append(batch[:half])
            raise PartialExportError(remaining=batch[half:-1], rejected=batch[-1:])

        async def lose(batch: Any) -> None:
            self.sink.taken.append(batch)
            raise ConnectionResetError

        async def hang(batch: Any) -> None:
            self._hanging += 1
            try:
                await anyio.sleep_forever()
            finally:
                self._hanging -= 1

        reactions: dict[Answer, Any] = {
            Answer.ACCEPT: None,
            Answer.RETRYABLE: RetryableExportError("503"),
            Answer.PERMANENT: PermanentExportError("400"),
            Answer.PARTIAL: take_half,
            Answer.LOST: lose,
            Answer.HANG: hang,
        }
        self.sink.script.append(reactions[answer])

    def poison(self, name: str) -> bool:
        self.sink.poison |= {name}
        return True

    def read(self) -> Mapping[Key, float]:
        return total_snapshots(snapshot for batch in self.sink.taken for snapshot in batch)

    def is_hanging(self) -> bool:
        return self._hanging > 0


class StreamBackend(Backend):
    """A text stream that fails, or blocks, when it is told to."""

    answers = frozenset({Answer.ACCEPT, Answer.RETRYABLE, Answer.HANG})

    def __init__(self, *, holds_lines: bool) -> None:
        self.stream = Stream()
        self._holds_lines = holds_lines

    def answer_next(self, answer: Answer) -> None:
        self.stream.script.append(answer)

    def read(self) -> Mapping[Key, float] | None:
        # A table is for people, and rounds.
        return total_lines(self.stream.getvalue().splitlines()) if self._holds_lines else None

    def is_hanging(self) -> bool:
        return self.stream.is_hanging

    def release(self) -> None:
        self.stream.released.set()


class Stream(io.StringIO):
    """Has no descriptor, so the sink writes to it as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Answer] = []
        self.released = Event()
        self.is_hanging = False

    def write(self, text: str, /) -> int:
        answer = self.script.pop(0) if self.script else Answer.ACCEPT
        if answer is Answer.HANG:
            self.is_hanging = True
            self.released.wait(60.0)
            self.is_hanging = False
        if answer is not Answer.ACCEPT:
            raise OSError(errno.EIO, "told so")
        return super().write(text)


class FileBackend(Backend):
    """A file on a disk that may be full, from the beginning of a write or in the middle of it."""

    answers = frozenset({Answer.ACCEPT, Answer.RETRYABLE})

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._script: list[Answer] = []
        self._is_torn = False
        self._write = os.writev
        monkeypatch.setattr(os, "writev", self._writev)

    def answer_next(self, answer: Answer) -> None:
        self._script.append(answer)

    def _writev(self, descriptor: int, buffers: Any) -> int:
        if self._is_torn:
            self._is_torn = False
            raise OSError(errno.ENOSPC, "told so")
        if self._script and self._script.pop(0) is Answer.RETRYABLE:
            self._is_torn = True
            return self._write(descriptor, [bytes(buffers[0])[:40]])
        return self._write(descriptor, buffers)

    def read(self) -> Mapping[Key, float]:
        return total_lines(self.path.read_text().splitlines()) if self.path.exists() else {}


class OtlpAnswers(NamedTuple):
    """What the receivers call the suite's answers."""

    retryable: otlp_receiver.Answer
    permanent: otlp_receiver.Answer
    lost: otlp_receiver.Answer


OTLP_ANSWERS = {
    "grpc": OtlpAnswers(
        otlp_receiver.Answer(code="UNAVAILABLE"),
        otlp_receiver.Answer(code="INVALID_ARGUMENT"),
        otlp_receiver.Answer(code="DEADLINE_EXCEEDED", takes=True),
    ),
    "http/protobuf": OtlpAnswers(
        otlp_receiver.Answer(status=503),
        otlp_receiver.Answer(status=400),
        otlp_receiver.Answer(event="reset", takes=True),
    ),
}


class OtlpBackend(Backend):
    """A real receiver. Delta points add up; of cumulative ones the last holds."""

    answers = frozenset(Answer)

    def __init__(self, receiver: otlp_receiver.Receiver, protocol: str, *, is_cumulative: bool) -> None:
        self.receiver = receiver
        self._protocol = protocol
        self._is_cumulative = is_cumulative
        self._poison = ""
        self._script: list[otlp_receiver.Answer] = []
        self._rejected: set[int] = set()
        self._hanging = False
        receiver.choose = self._choose

    def answer_next(self, answer: Answer) -> None:
        words = OTLP_ANSWERS[self._protocol]
        answers = {
            Answer.ACCEPT: otlp_receiver.Answer(),
            Answer.RETRYABLE: words.retryable,
            Answer.PERMANENT: words.permanent,
            # More points than there are: none was taken.
            Answer.PARTIAL: otlp_receiver.Answer(rejected=10**6, words="told so"),
            Answer.LOST: words.lost,
            Answer.HANG: otlp_receiver.Answer(event="hang"),
        }
        self._script.append(answers[answer])

    def _choose(self, request: Any) -> otlp_receiver.Answer:
        if any(name == self._poison for name, _, _ in otlp_receiver.read_points(request)):
            return OTLP_ANSWERS[self._protocol].permanent
        answer = self._script.pop(0) if self._script else otlp_receiver.Answer()
        self._hanging = answer.event == "hang"
        if answer.rejected:
            # The receiver keeps it, as it does not know that no point is left.
            self._rejected.add(id(request))
        return answer

    def poison(self, name: str) -> bool:
        self._poison = PREFIX + name
        return True

    def read(self) -> Mapping[Key, float]:
        totals = Totals()
        for request in self.receiver.accepted:
            if id(request) in self._rejected:
                continue
            for name, kind, point in otlp_receiver.read_points(request):
                value = point.sum if "istogram" in kind else point.as_double
                dimensions = tuple(sorted((each.key, each.value.string_value) for each in point.attributes))
                key = (name.removeprefix(PREFIX), dimensions)
                if self._is_cumulative:
                    totals[key] = value
                else:
                    totals.add((*key, point.time_unix_nano / 1e9), value)
        return totals

    def is_hanging(self) -> bool:
        return self._hanging and not self.receiver.released.is_set()

    def release(self) -> None:
        self.receiver.released.set()


class MeterBackend(Backend):
    """A Meter of the SDK, read cumulatively."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meter = MeterProvider([self._reader], shutdown_on_exit=False).get_meter("contract")

    def read(self) -> Mapping[Key, float]:
        data: Any = self._reader.get_metrics_data()
        if data is None:
            return {}
        totals = Totals()
        for resource in data.resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in metric.data.data_points:
                    value = point.sum if hasattr(point, "sum") else point.value
                    key = (metric.name.removeprefix(PREFIX), tuple(sorted(point.attributes.items())))
                    totals.add(key, float(value))
        return totals


class DatadogBackend(Backend):
    """The local intake. A histogram is its number of points there, and its exact sum where that is sent."""

    def __init__(self, intake: datadog_intake.DatadogIntake, *, is_exact: bool) -> None:
        # With exact statistics a histogram is in two requests: of a part of it no key says what is there.
        self.answers = frozenset({*Answer} - {Answer.PARTIAL}) if is_exact else frozenset(Answer)
        self.intake = intake
        self._released = False

    def answer_next(self, answer: Answer) -> None:
        answers = {
            Answer.ACCEPT: [datadog_intake.Answer(202, '{"errors": []}', takes=True)],
            Answer.RETRYABLE: [datadog_intake.Answer(503)],
            # A window is two requests.
            Answer.PERMANENT: [datadog_intake.Answer(400, path=path) for path in PATHS],
            Answer.PARTIAL: [datadog_intake.Answer(503, path=datadog_intake.DISTRIBUTIONS)],
            Answer.LOST: [datadog_intake.Answer(0, takes=True)],
            Answer.HANG: [datadog_intake.HANG],
        }
        self.intake.script += answers[answer]

    def poison(self, name: str) -> bool:
        self.intake.poison.add(PREFIX + name)
        return True

    def read(self) -> Mapping[Key, float]:
        totals = Totals()
        for key, value in self.intake.values.items():
            name, dot, role = key.metric.removeprefix(PREFIX).partition(".")
            if not dot or role == "sum":
                totals.add((name, _read_tags(key.tags), float(key.timestamp)), value)
        for key, values in self.intake.points.items():
            name = f"{key.metric.removeprefix(PREFIX)} points"
            totals.add((name, _read_tags(key.tags), float(key.timestamp)), float(len(values)))
        return totals

    def is_hanging(self) -> bool:
        return self.intake.asked.is_set() and not self._released

    def release(self) -> None:
        self._released = True
        self.intake.release()


def _read_tags(tags: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(tag.split(":", 1)) for tag in tags)


class PageBackend(Backend):
    """The page that Prometheus scrapes, as its own parser reads it."""

    def __init__(self) -> None:
        self.sink = PrometheusSink(clock=time.time)

    def read(self) -> Mapping[Key, float]:
        totals = Totals()
        for family in text_string_to_metric_families(self.sink.encode_page()):
            for sample in family.samples:
                if sample.name.endswith(("_bucket", "_count", "_created")):
                    continue
                name = sample.name.removesuffix("_total").removesuffix("_sum")
                totals.add((name, tuple(sorted(sample.labels.items()))), sample.value)
        return totals


__all__ = [
    "DatadogBackend",
    "FileBackend",
    "MemoryBackend",
    "MeterBackend",
    "OtlpBackend",
    "PageBackend",
    "ScriptedBackend",
    "StreamBackend",
    "Totals",
]
