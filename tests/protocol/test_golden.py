"""What was once sent is understood for ever, and today's encoder still sends the same bytes."""

import hashlib
from typing import Any

import pytest

from aiokpl_metrics_protocol import (
    AckFrame,
    Buckets,
    Column,
    ColumnsFrame,
    EventsFrame,
    Folded,
    FoldedFrame,
    Frame,
    HelloFrame,
    MetricEvent,
    Series,
    Totals,
    encode,
    encode_series,
)
from tests.protocol.golden import PATH, Golden, decode_golden, describe, dump, read_golden

GOLDEN = list(read_golden().values())

# The first frames of the wire, as they were published. Others follow below them, so the digest never changes.
FIRST_FRAMES = 43
FIRST_FRAMES_SHA256 = "0441e05bf592a31acca8feadda8f83118de7dfa89f4afe187a7f579664d3e717"

every_golden = pytest.mark.parametrize("golden", GOLDEN, ids=[golden.name for golden in GOLDEN])


@every_golden
def test_a_golden_frame_decodes_to_what_is_written_beside_it(golden: Golden) -> None:
    assert dump(describe(decode_golden(golden))) == dump(golden.value)


@every_golden
def test_a_golden_frame_is_encoded_to_the_same_bytes_where_our_encoder_wrote_it_so(golden: Golden) -> None:
    value = _build(golden)
    data = encode_series(value) if isinstance(value, Series) else encode(value)
    assert (data.hex(" ") == golden.data.hex(" ")) is golden.is_exact


def test_every_type_is_golden_with_optional_items_absent_present_and_followed_by_unknown_ones() -> None:
    names = {golden.name for golden in GOLDEN}
    types = ("EventsFrame", "ColumnsFrame", "FoldedFrame", "HelloFrame", "AckFrame", "Series")
    for group, name in zip(("events", "columns", "folded", "hello", "ack", "series"), types, strict=True):
        of_type = [golden for golden in GOLDEN if name in golden.value]
        assert f"{group}-extra-items" in names
        assert {golden.is_exact for golden in of_type} == {True, False}
        assert len(of_type) >= 3


def test_no_golden_frame_was_edited_or_removed() -> None:
    digest = hashlib.sha256()
    for golden in GOLDEN[:FIRST_FRAMES]:
        digest.update(f"{golden.name} {golden.data.hex()} {dump(golden.value)} {golden.is_exact}\n".encode())
    assert digest.hexdigest() == FIRST_FRAMES_SHA256, f"restore {PATH.name}: a golden frame is never edited"


def _build(golden: Golden) -> Frame | Series:
    """Build the value from its JSON, so that the encoder is tested without the decoder."""
    ((name, fields),) = golden.value.items()
    if name == "EventsFrame":
        return EventsFrame([_build_event(row) for row in fields["events"]])
    if name == "ColumnsFrame":
        columns = [_build_column(column) for column in fields["columns"]]
        return ColumnsFrame(fields["producer_id"], fields["sequence"], Totals(**fields["totals"]), columns)
    if name == "FoldedFrame":
        sets = [_build_folded(folded) for folded in fields["sets"]]
        return FoldedFrame(fields["producer_id"], fields["sequence"], Totals(**fields["totals"]), sets)
    if name == "Series":
        return Series(fields["name"], fields["kind"], fields["unit"], _build_pairs(fields["dimensions"]))
    return HelloFrame(**fields) if name == "HelloFrame" else AckFrame(**fields)


def _build_event(row: dict[str, Any]) -> MetricEvent:
    fields = dict(row)
    # float() reads the names "nan", "inf" and "-inf" too.
    value, dimensions = float(fields.pop("value")), _build_pairs(fields.pop("dimensions"))
    return MetricEvent(value=value, dimensions=dimensions, **fields)


def _build_column(column: dict[str, Any]) -> Column:
    values = column["values"]
    if isinstance(values, list):
        values = [float(value) if isinstance(value, str) else value for value in values]
    return Column(bytes.fromhex(column["series"]), column["second"], values, column["count"])


def _build_folded(folded: dict[str, Any]) -> Folded:
    fields = dict(folded)
    series, buckets = bytes.fromhex(fields.pop("series")), fields.pop("buckets")
    return Folded(series=series, buckets=None if buckets is None else Buckets(**buckets), **fields)


def _build_pairs(pairs: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in pairs)
