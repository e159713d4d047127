import math
import zlib
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.checksum import DamagedBlobError, add_checksum, strip_checksum
from aiokpl_metricsd.storing.snapshot_codec import BLOB_SNAPSHOTS, decode_blob, encode_blob, encode_blobs

NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1)
COUNTS = st.integers(0, 2**63 - 1)
BUCKETS = st.builds(
    Buckets,
    st.integers(-10, 20),
    COUNTS,
    st.integers(-(2**40), 2**40),
    st.lists(COUNTS, max_size=4).map(tuple),
)
SNAPSHOTS = st.builds(
    MetricSnapshot,
    st.text(),
    COUNTS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.lists(st.tuples(st.text(), st.text()), max_size=3).map(tuple),
    st.sampled_from([0.0, 60.0]),
    st.sampled_from([0.0, 120.0]),
    st.sampled_from(MetricKind),
    st.none() | st.text(),
    NUMBERS,
    st.none() | BUCKETS,
    st.sampled_from(["", "d-1", "d-1..d-2"]),
    st.booleans(),
)


@given(st.lists(SNAPSHOTS, max_size=20))
def test_what_is_decoded_is_what_was_encoded(snapshots: list[MetricSnapshot]) -> None:
    found = decode_blob(encode_blob(snapshots))
    assert found == snapshots
    # 1 and 1.0 are equal, and not the same to whoever writes them.
    assert repr(found) == repr(snapshots)


@given(st.lists(SNAPSHOTS, min_size=1, max_size=3), st.data())
def test_a_blob_with_a_wrong_byte_is_damaged(snapshots: list[MetricSnapshot], data: st.DataObject) -> None:
    blob = bytearray(encode_blob(snapshots))
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedBlobError):
        decode_blob(bytes(blob))


@given(st.binary(max_size=100))
def test_any_bytes_are_snapshots_or_damaged(data: bytes) -> None:
    for blob in (data, add_checksum(data)):
        with suppress(DamagedBlobError):
            assert decode_blob(blob) == []


def test_a_blob_without_summed_gauges_is_what_it_was_before_there_were_any() -> None:
    plain = MetricSnapshot("Put", 1, 1.0, 1.0, 1.0)
    summed = MetricSnapshot("Open", 1, 1.0, 1.0, 1.0, is_summed=True)
    lengths = [
        [len(columns) for _, columns in msgspec.msgpack.decode(zlib.decompress(strip_checksum(blob)))]
        for blob in (encode_blob([plain, plain]), encode_blob([plain, summed]))
    ]
    assert lengths == [[10], [11]]


def test_numbers_that_are_none_survive() -> None:
    (found,) = decode_blob(encode_blob([MetricSnapshot("Odd", 1, math.nan, -math.inf, math.inf)]))
    assert math.isnan(found.sum)
    assert (found.min, found.max) == (-math.inf, math.inf)


def test_a_batch_is_blobs_of_a_thousand() -> None:
    batch = [MetricSnapshot(str(index), 1, 1.0, 1.0, 1.0) for index in range(2_001)]
    blobs = [decode_blob(blob) for blob in encode_blobs(batch)]
    assert list(map(len, blobs)) == [BLOB_SNAPSHOTS, BLOB_SNAPSHOTS, 1]
    assert [snapshot for blob in blobs for snapshot in blob] == batch
    assert list(encode_blobs([])) == []
