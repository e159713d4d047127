"""Bytes <-> the same with a checksum: SQLite has none of its own, and a power cut may leave half a page."""

import zlib

_CHECKSUM_BYTES = 4


class DamagedBlobError(Exception):
    """Stored bytes are not those that were stored."""


def add_checksum(data: bytes) -> bytes:
    """Return the data with its checksum in front."""
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big") + data


def strip_checksum(stored: bytes) -> bytes:
    """Return what `add_checksum` was given.

    Raises:
        DamagedBlobError: it is something else by now.
    """
    data = stored[_CHECKSUM_BYTES:]
    if zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big") != stored[:_CHECKSUM_BYTES]:
        raise DamagedBlobError("wrong checksum")
    return data


__all__ = ["DamagedBlobError", "add_checksum", "strip_checksum"]
