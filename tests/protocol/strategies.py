"""Any frame, as hypothesis draws it. Numbers are finite, so that equal frames compare equal."""

from hypothesis import strategies as st

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
    MetricKind,
    Series,
    Totals,
)

# A whole number beyond 2^53 is rounded on its way into a double.
_values = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
_numbers = st.integers(0, 2**63 - 1)
_seconds = st.integers(-(2**63), 2**64 - 1)
_text = st.text(max_size=40)
_kinds = st.none() | st.sampled_from([kind.value for kind in MetricKind]) | _text
_units = st.none() | st.sampled_from(["ms", "bytes", "count"]) | _text
_dimensions = st.lists(st.tuples(_text, _text), max_size=4).map(tuple)

series = st.builds(Series, _text, _kinds, _units, _dimensions)

_events = st.builds(MetricEvent, _text, _values, _values, _dimensions, _kinds, _units)
_totals = st.builds(Totals, _numbers, st.dictionaries(_text, _numbers, max_size=3))
_column_values = _values | st.booleans() | st.lists(_values | st.booleans(), max_size=6)
_columns = st.builds(Column, st.binary(max_size=40), _seconds, _column_values, st.integers(0, 2**32))
_counts = st.lists(_numbers, max_size=5).map(tuple)
_offsets = st.integers(-(2**31), 2**31)
_buckets = st.builds(Buckets, st.integers(-10, 20), _numbers, _offsets, _counts, _offsets, _counts)
_sets = st.builds(
    Folded,
    st.binary(max_size=40),
    _seconds,
    _numbers,
    _values,
    _values,
    _values,
    _values,
    _seconds,
    st.none() | _buckets,
)

frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(EventsFrame, st.lists(_events, max_size=5)),
    st.builds(ColumnsFrame, _numbers, _numbers, _totals, st.lists(_columns, max_size=5)),
    st.builds(FoldedFrame, _numbers, _numbers, _totals, st.lists(_sets, max_size=5)),
    st.builds(HelloFrame, _numbers, _numbers, _text),
    st.builds(AckFrame, _numbers, _numbers, st.booleans(), _values, _numbers),
)

__all__ = ["frames", "series"]
