"""The wire between producers and the daemon: frames, events, limits and the KPL catalog.

Reading order: `limits` (the numbers), `reasons` (why something is refused), `events` (what is
measured), `catalog` (the KPL's names), `series` (what identifies a stream of events), `frames`
(what one datagram carries), `codec` (bytes to frames and back), `location` (where the socket is).
"""

from aiokpl_metrics_protocol.catalog import (
    CATALOG,
    NAME_ALL_ERRORS,
    NAME_BUFFERED_TIME,
    NAME_BUFFERING_TIME,
    NAME_ERRORS_BY_CODE,
    NAME_EXPIRED_RECORDS,
    NAME_KINESIS_RECORDS_DATA_PUT,
    NAME_KINESIS_RECORDS_PER_PUT_RECORDS_REQUEST,
    NAME_KINESIS_RECORDS_PUT,
    NAME_REQUEST_TIME,
    NAME_RETRIES_PER_RECORD,
    NAME_USER_RECORD_EXPIRED,
    NAME_USER_RECORDS_DATA_PUT,
    NAME_USER_RECORDS_PENDING,
    NAME_USER_RECORDS_PER_KINESIS_RECORD,
    NAME_USER_RECORDS_PER_PUT_RECORDS_REQUEST,
    NAME_USER_RECORDS_PUT,
    NAME_USER_RECORDS_RECEIVED,
    Description,
)
from aiokpl_metrics_protocol.codec import decode, decode_series, encode, encode_series
from aiokpl_metrics_protocol.errors import (
    FrameTooLargeError,
    MalformedFrameError,
    NestingError,
    ProtocolError,
    TextError,
    UnknownTagError,
    WrongTypeError,
)
from aiokpl_metrics_protocol.events import MetricEvent, MetricKind, MetricsLevel
from aiokpl_metrics_protocol.frames import (
    AckFrame,
    Buckets,
    Column,
    ColumnsFrame,
    EventsFrame,
    Folded,
    FoldedFrame,
    Frame,
    HelloFrame,
    Totals,
)
from aiokpl_metrics_protocol.limits import (
    MAX_BUCKETS,
    MAX_COLUMN_COUNT,
    MAX_DATAGRAM_BYTES,
    MAX_DIMENSION_KEY_CHARS,
    MAX_DIMENSION_VALUE_CHARS,
    MAX_DIMENSIONS,
    MAX_NAME_CHARS,
    MAX_UNIT_CHARS,
    WIRE_VERSION,
)
from aiokpl_metrics_protocol.location import is_trusted_directory, socket_candidates
from aiokpl_metrics_protocol.reasons import Reason
from aiokpl_metrics_protocol.series import Series, check_series

__version__ = "0.1.0"

__all__ = [
    "CATALOG",
    "MAX_BUCKETS",
    "MAX_COLUMN_COUNT",
    "MAX_DATAGRAM_BYTES",
    "MAX_DIMENSIONS",
    "MAX_DIMENSION_KEY_CHARS",
    "MAX_DIMENSION_VALUE_CHARS",
    "MAX_NAME_CHARS",
    "MAX_UNIT_CHARS",
    "NAME_ALL_ERRORS",
    "NAME_BUFFERED_TIME",
    "NAME_BUFFERING_TIME",
    "NAME_ERRORS_BY_CODE",
    "NAME_EXPIRED_RECORDS",
    "NAME_KINESIS_RECORDS_DATA_PUT",
    "NAME_KINESIS_RECORDS_PER_PUT_RECORDS_REQUEST",
    "NAME_KINESIS_RECORDS_PUT",
    "NAME_REQUEST_TIME",
    "NAME_RETRIES_PER_RECORD",
    "NAME_USER_RECORDS_DATA_PUT",
    "NAME_USER_RECORDS_PENDING",
    "NAME_USER_RECORDS_PER_KINESIS_RECORD",
    "NAME_USER_RECORDS_PER_PUT_RECORDS_REQUEST",
    "NAME_USER_RECORDS_PUT",
    "NAME_USER_RECORDS_RECEIVED",
    "NAME_USER_RECORD_EXPIRED",
    "WIRE_VERSION",
    "AckFrame",
    "Buckets",
    "Column",
    "ColumnsFrame",
    "Description",
    "EventsFrame",
    "Folded",
    "FoldedFrame",
    "Frame",
    "FrameTooLargeError",
    "HelloFrame",
    "MalformedFrameError",
    "MetricEvent",
    "MetricKind",
    "MetricsLevel",
    "NestingError",
    "ProtocolError",
    "Reason",
    "Series",
    "TextError",
    "Totals",
    "UnknownTagError",
    "WrongTypeError",
    "check_series",
    "decode",
    "decode_series",
    "encode",
    "encode_series",
    "is_trusted_directory",
    "socket_candidates",
]
