"""Snapshots -> requests of at most so many datums and bytes, in order. Pure; pauses where others may run.

Bytes are those of the body before compression. The service does not say which are meant; the AWS agent counts
uncompressed ones (see `MAX_REQUEST_BYTES`), and what is smaller than that is smaller compressed, too.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Final, Generic, TypeVar

from msgspec import Struct

from aiokpl_metricsd.sinks.cloudwatch.datum import Datum, DatumOptions, Unfit, encode_datum
from aiokpl_metricsd.snapshot import MetricSnapshot

# PutMetricData, service model 2010-08-01 (botocore 1.43.117), read 2026-11.
MAX_REQUEST_DATUMS: Final = 1000

# "1 MB" (the same). The AWS agent stops at 999,000 bytes (amazon-cloudwatch-agent, plugins/outputs/
# cloudwatch/cloudwatch.go, read 2026-11); so do we, whose size is exact.
MAX_REQUEST_BYTES: Final = 999_000

# Datums encoded before others may run: half a millisecond, two with full distributions.
_SLICE_DATUMS = 50

Part = TypeVar("Part")
Encode = Callable[[Datum], tuple[Part, int]]


class Request(Struct, Generic[Part], frozen=True):
    """What is sent at once.

    Attributes:
        snapshots: whose datums these are, in order.
        parts: the datums, in the form that the client takes.
        size_bytes: of the body, uncompressed.
    """

    snapshots: list[MetricSnapshot]
    parts: list[Part]
    size_bytes: int


class Cutter(Generic[Part]):
    """Cuts one window, or what is left of it.

    Args:
        snapshots: to be sent.
        options: of the datums.
        encode: gives a datum the client's form, and the bytes this takes in a body.
        now: epoch seconds.
        max_datums: of one request.
        max_bytes: of one request; a single datum may exceed it.
        frame_bytes: what a body holds beside its datums.

    Attributes:
        position: how many snapshots have come out so far, in a request or as set aside.
        unfit: the ones set aside, and why.
    """

    def __init__(  # noqa: PLR0913 - what a cut depends on
        self,
        snapshots: Sequence[MetricSnapshot],
        options: DatumOptions,
        encode: Encode[Part],
        *,
        now: float,
        max_datums: int = MAX_REQUEST_DATUMS,
        max_bytes: int = MAX_REQUEST_BYTES,
        frame_bytes: int = 0,
    ) -> None:
        """Start at the first snapshot."""
        self.position = 0
        self.unfit: list[tuple[MetricSnapshot, Unfit]] = []
        self._snapshots = snapshots
        self._options = options
        self._encode = encode
        self._now = now
        self._max_datums = max_datums
        self._max_bytes = max_bytes
        self._frame_bytes = frame_bytes

    def cut(self) -> Generator[Request[Part] | None, None, None]:
        """Yield the requests, and None where the caller may let others run."""
        taken: list[MetricSnapshot] = []
        parts: list[Part] = []
        size_bytes = self._frame_bytes
        for number, snapshot in enumerate(self._snapshots):
            if number % _SLICE_DATUMS == 0:
                yield None
            datum = encode_datum(snapshot, self._options, self._now)
            if isinstance(datum, Unfit):
                self.unfit.append((snapshot, datum))
                continue
            part, part_bytes = self._encode(datum)
            if parts and (len(parts) >= self._max_datums or size_bytes + part_bytes > self._max_bytes):
                self.position = number
                yield Request(taken, parts, size_bytes)
                taken, parts, size_bytes = [], [], self._frame_bytes
            taken.append(snapshot)
            parts.append(part)
            size_bytes += part_bytes
        self.position = len(self._snapshots)
        if parts:
            yield Request(taken, parts, size_bytes)


__all__ = ["MAX_REQUEST_BYTES", "MAX_REQUEST_DATUMS", "Cutter", "Encode", "Request"]
