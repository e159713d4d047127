"""The Kinesis Producer Library's metric names with their kinds and units.

Names, and which of them measure bytes or milliseconds, follow the KPL's own list
(awslabs/amazon-kinesis-producer, `aws/metrics/metrics_constants.h`, read 2026-11) and aiokpl 0.2.0, which
writes some of them in its own way.
"""

from types import MappingProxyType
from typing import Final, NamedTuple

from aiokpl_metrics_protocol.events import MetricKind

NAME_USER_RECORDS_RECEIVED: Final = "UserRecordsReceived"
NAME_USER_RECORDS_PUT: Final = "UserRecordsPut"
NAME_USER_RECORDS_DATA_PUT: Final = "UserRecordsDataPut"
NAME_USER_RECORDS_PENDING: Final = "UserRecordsPending"
NAME_KINESIS_RECORDS_PUT: Final = "KinesisRecordsPut"
NAME_KINESIS_RECORDS_DATA_PUT: Final = "KinesisRecordsDataPut"
NAME_ALL_ERRORS: Final = "AllErrors"
NAME_ERRORS_BY_CODE: Final = "ErrorsByCode"
NAME_RETRIES_PER_RECORD: Final = "RetriesPerRecord"
NAME_BUFFERED_TIME: Final = "BufferedTime"
NAME_REQUEST_TIME: Final = "RequestTime"
NAME_EXPIRED_RECORDS: Final = "ExpiredRecords"

# The C++ KPL's names for what aiokpl calls otherwise or does not measure.
NAME_USER_RECORD_EXPIRED: Final = "UserRecordExpired"
NAME_BUFFERING_TIME: Final = "BufferingTime"
NAME_USER_RECORDS_PER_KINESIS_RECORD: Final = "UserRecordsPerKinesisRecord"
NAME_KINESIS_RECORDS_PER_PUT_RECORDS_REQUEST: Final = "KinesisRecordsPerPutRecordsRequest"
NAME_USER_RECORDS_PER_PUT_RECORDS_REQUEST: Final = "UserRecordsPerPutRecordsRequest"


class Description(NamedTuple):
    """What a metric of one name measures. `unit` is None where nobody declared one."""

    kind: MetricKind
    unit: str | None


_RECORDS = Description(MetricKind.COUNTER, "count")
_BYTES = Description(MetricKind.COUNTER, "bytes")
_DURATION = Description(MetricKind.HISTOGRAM, "ms")
_DISTRIBUTION = Description(MetricKind.HISTOGRAM, "count")

CATALOG: Final = MappingProxyType(
    {
        NAME_USER_RECORDS_RECEIVED: _RECORDS,
        NAME_USER_RECORDS_PUT: _RECORDS,
        NAME_USER_RECORDS_DATA_PUT: _BYTES,
        NAME_USER_RECORDS_PENDING: Description(MetricKind.GAUGE, "count"),
        NAME_KINESIS_RECORDS_PUT: _RECORDS,
        NAME_KINESIS_RECORDS_DATA_PUT: _BYTES,
        NAME_ALL_ERRORS: _RECORDS,
        NAME_ERRORS_BY_CODE: _RECORDS,
        NAME_RETRIES_PER_RECORD: _DISTRIBUTION,
        NAME_BUFFERED_TIME: _DURATION,
        NAME_REQUEST_TIME: _DURATION,
        NAME_EXPIRED_RECORDS: _RECORDS,
        NAME_USER_RECORD_EXPIRED: _RECORDS,
        NAME_BUFFERING_TIME: _DURATION,
        NAME_USER_RECORDS_PER_KINESIS_RECORD: _DISTRIBUTION,
        NAME_KINESIS_RECORDS_PER_PUT_RECORDS_REQUEST: _DISTRIBUTION,
        NAME_USER_RECORDS_PER_PUT_RECORDS_REQUEST: _DISTRIBUTION,
    },
)

__all__ = [
    "CATALOG",
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
    "Description",
]
