"""The wire's limits. Each is ours unless a source and the date it was read stand above it."""

WIRE_VERSION = 1

# An AF_UNIX datagram may be as large as the sender's SO_SNDBUF less 32 bytes: 212,960 bytes with Linux's
# default of 212,992 (measured on Linux 6.18, 2026-11). A sender then has four datagrams of 64 KiB in flight.
MAX_DATAGRAM_BYTES = 65_536

# CloudWatch takes names and dimension names of 1 to 255 characters, values of 1 to 1,024 and 30 dimensions
# (PutMetricData, service model 2010-08-01, read 2026-11). No other backend of ours takes more dimensions.
MAX_NAME_CHARS = 255
MAX_DIMENSIONS = 30
MAX_DIMENSION_KEY_CHARS = 255
MAX_DIMENSION_VALUE_CHARS = 1024

# OpenTelemetry's instrument API takes units of at most 63 ASCII characters (opentelemetry-api 1.45, read
# 2026-11).
MAX_UNIT_CHARS = 63

# A column of equal values is sent as one value and a count, so thirty bytes can claim any number of events.
MAX_COLUMN_COUNT = 2**32

# OpenTelemetry's exponential histogram aggregation keeps 160 buckets a side by default (metrics SDK
# specification, read 2026-11).
MAX_BUCKETS = 160

__all__ = [
    "MAX_BUCKETS",
    "MAX_COLUMN_COUNT",
    "MAX_DATAGRAM_BYTES",
    "MAX_DIMENSIONS",
    "MAX_DIMENSION_KEY_CHARS",
    "MAX_DIMENSION_VALUE_CHARS",
    "MAX_NAME_CHARS",
    "MAX_UNIT_CHARS",
    "WIRE_VERSION",
]
