"""`decode(encode(x)) == x`, and any bytes give a frame or a `ProtocolError`, and nothing else."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiokpl_metrics_protocol import (
    MAX_DATAGRAM_BYTES,
    AckFrame,
    Buckets,
    Column,
    ColumnsFrame,
    EventsFrame,
    Folded,
    FoldedFrame,
    Frame,
    FrameTooLargeError,
    HelloFrame,
    MalformedFrameError,
    MetricEvent,
    NestingError,
    ProtocolError,
    Reason,
    RowsFrame,
    Series,
    TextError,
    Totals,
    UnknownTagError,
    WrongTypeError,
    decode,
    decode_deferred,
    decode_dimensions,
    decode_series,
    encode,
    encode_series,
)
from tests.protocol import strategies
from tests.protocol.fuzz import random_datagrams
from tests.protocol.golden import read_golden

FRAMES = (EventsFrame, ColumnsFrame, FoldedFrame, HelloFrame, AckFrame)

# Every msgpack encoding that can hold a tag, with the number of bytes and whether it is signed.
INTEGER_ENCODINGS = {
    "uint8": (0xCC, 1, False),
    "uint16": (0xCD, 2, False),
    "uint32": (0xCE, 4, False),
    "uint64": (0xCF, 8, False),
    "int8": (0xD0, 1, True),
    "int16": (0xD1, 2, True),
    "int32": (0xD2, 4, True),
    "int64": (0xD3, 8, True),
}
ARRAY_HEADERS: dict[str, Callable[[int], bytes]] = {
    "fixarray": lambda length: bytes([0x90 + length]),
    "array16": lambda length: b"\xdc" + length.to_bytes(2, "big"),
    "array32": lambda length: b"\xdd" + length.to_bytes(4, "big"),
}
# How many bytes of length follow each msgpack byte that announces one.
LENGTH_BYTES = {
    "c4": 1,
    "c5": 2,
    "c6": 4,
    "c7": 1,
    "c8": 2,
    "c9": 4,
    "d9": 1,
    "da": 2,
    "db": 4,
    "dc": 2,
    "dd": 4,
    "de": 2,
    "df": 4,
}
# What follows the tag in the shortest frame of each type.
SHORTEST_REST = {1: "90", 2: "00 00 90 90", 3: "00 00 90 90", 4: "00 00", 5: "00"}

every_integer = pytest.mark.parametrize("integer", INTEGER_ENCODINGS)
every_array = pytest.mark.parametrize("array", ARRAY_HEADERS)


@given(strategies.frames)
@settings(deadline=None, max_examples=5 * settings().max_examples)
def test_a_frame_decodes_to_what_was_encoded(frame: Frame) -> None:
    decoded = decode(encode(frame))
    assert decoded == frame
    assert type(decoded) is type(frame)


@given(strategies.series)
@settings(deadline=None)
def test_a_series_decodes_to_what_was_encoded(series: Series) -> None:
    assert decode_series(encode_series(series)) == series


@given(strategies.frames)
@settings(deadline=None)
def test_the_kind_of_buffer_makes_no_difference(frame: Frame) -> None:
    data = encode(frame)
    buffer = bytearray(b"\x00" + data + b"\x00")
    assert decode(bytearray(data)) == frame
    assert decode(memoryview(data)) == frame
    assert decode(memoryview(buffer)[1:-1]) == frame


def test_a_frame_does_not_hold_on_to_the_buffer_it_came_from() -> None:
    column = Column(encode_series(Series("jobs")), 1, [1.0, 2.0])
    frame = ColumnsFrame(1, 1, Totals(), [column])
    buffer = bytearray(encode(frame))
    decoded = decode(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    buffer.clear()
    assert decoded == frame


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=1000)
def test_any_bytes_give_a_frame_or_a_protocol_error(data: bytes) -> None:
    _expect_frame_or_protocol_error(data)


@given(strategies.frames, st.data())
@settings(deadline=None, max_examples=5 * settings().max_examples)
def test_any_mutated_frame_gives_a_frame_or_a_protocol_error(frame: Frame, data: st.DataObject) -> None:
    mutated = bytearray(encode(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        end = data.draw(st.integers(start, min(len(mutated), start + 4)))
        mutated[start:end] = data.draw(st.binary(max_size=6))
    _expect_frame_or_protocol_error(bytes(mutated))


@given(strategies.frames)
@settings(deadline=None)
def test_a_frame_cut_anywhere_is_malformed_and_so_is_one_with_a_byte_after_its_end(frame: Frame) -> None:
    data = encode(frame)
    for end in range(len(data)):
        with pytest.raises(MalformedFrameError):
            decode(data[:end])
    with pytest.raises(MalformedFrameError):
        decode(data + b"\x00")


def _expect_frame_or_protocol_error(data: bytes) -> None:
    outcomes = [_try(decode, buffer) for buffer in (data, bytearray(data), memoryview(data))]
    for outcome in outcomes:
        assert isinstance(outcome, (*FRAMES, ProtocolError))
        # Not the values: NaN differs from itself.
        assert type(outcome) is type(outcomes[0])
    series = _try(decode_series, data)
    assert isinstance(series, Series | ProtocolError)
    assert not isinstance(series, FrameTooLargeError | UnknownTagError)


def _try(decoder: Callable[[Any], object], data: object) -> object:
    """Return what the decoder returns or the `ProtocolError` that it raises. Anything else fails the test."""
    try:
        return decoder(data)
    except ProtocolError as error:
        return error


# ---- the error for each cause


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param("", MalformedFrameError, id="no bytes"),
        pytest.param("92", MalformedFrameError, id="an array without its items"),
        pytest.param("92 01", MalformedFrameError, id="a tag without its rows"),
        pytest.param("dc 00", MalformedFrameError, id="half a length"),
        pytest.param("92 cf 00 00", MalformedFrameError, id="half a tag"),
        pytest.param("92 01 90 c0", MalformedFrameError, id="a byte after the end"),
        pytest.param("c1", MalformedFrameError, id="the byte that msgpack never uses"),
        pytest.param("93 01 90 c1", MalformedFrameError, id="the unused byte among unknown items"),
        pytest.param("c0", WrongTypeError, id="nil"),
        pytest.param("01", WrongTypeError, id="an integer"),
        pytest.param("a161", WrongTypeError, id="a string"),
        pytest.param("c4 01 01", WrongTypeError, id="bytes"),
        pytest.param("81 01 90", WrongTypeError, id="a map"),
        pytest.param("d4 01 01", WrongTypeError, id="an extension"),
        pytest.param("90", WrongTypeError, id="an empty array"),
        pytest.param("92 c0 90", WrongTypeError, id="nil for a tag"),
        pytest.param("92 c3 90", WrongTypeError, id="true for a tag"),
        pytest.param("92 cb 3ff0000000000000 90", WrongTypeError, id="1.0 for a tag"),
        pytest.param("92 a131 90", WrongTypeError, id="a string for a tag"),
        pytest.param("92 90 90", WrongTypeError, id="an array for a tag"),
        pytest.param("91 01", WrongTypeError, id="events frame without rows"),
        pytest.param("92 01 c0", WrongTypeError, id="nil for rows"),
        pytest.param("92 01 80", WrongTypeError, id="a map for rows"),
        pytest.param("92 01 91 80", WrongTypeError, id="a map for a row"),
        pytest.param("92 01 91 92 a161 01", WrongTypeError, id="a row without timestamp"),
        pytest.param("92 01 91 93 c40161 01 00", WrongTypeError, id="bytes for a name"),
        pytest.param("92 01 91 93 a161 a131 00", WrongTypeError, id="a string for a value"),
        pytest.param("92 01 91 93 a161 c3 00", WrongTypeError, id="true for a row's value"),
        pytest.param("92 01 91 93 a161 01 c0", WrongTypeError, id="nil for a timestamp"),
        pytest.param("92 01 91 94 a161 01 00 c0", WrongTypeError, id="nil for dimensions"),
        pytest.param("92 01 91 94 a161 01 00 81 a16b a176", WrongTypeError, id="a map for dimensions"),
        pytest.param("92 01 91 94 a161 01 00 91 91 a16b", WrongTypeError, id="a dimension without value"),
        pytest.param(
            "92 01 91 94 a161 01 00 91 93 a16b a176 a178", WrongTypeError, id="three items for a pair"
        ),
        pytest.param("92 01 91 95 a161 01 00 90 01", WrongTypeError, id="an integer for a kind"),
        pytest.param("94 02 00 00 90", WrongTypeError, id="columns frame without columns"),
        pytest.param("95 02 ff 00 90 90", WrongTypeError, id="a negative producer id"),
        pytest.param("95 02 00 cf 8000000000000000 90 90", WrongTypeError, id="a sequence of 64 bits"),
        pytest.param("95 02 00 cb 3ff0000000000000 90 90", WrongTypeError, id="1.0 for a sequence"),
        pytest.param("95 02 00 00 c0 90", WrongTypeError, id="nil for totals"),
        pytest.param("95 02 00 00 91 ff 90", WrongTypeError, id="negative totals"),
        pytest.param("95 02 00 00 92 00 90 90", WrongTypeError, id="an array for dropped"),
        pytest.param("95 02 00 00 90 91 92 c400 00", WrongTypeError, id="a column without values"),
        pytest.param("95 02 00 00 90 91 93 a161 00 01", WrongTypeError, id="a string for a series"),
        pytest.param("95 02 00 00 90 91 93 c400 ca00000000 01", WrongTypeError, id="0.0 for a second"),
        pytest.param("95 02 00 00 90 91 93 c400 00 c0", WrongTypeError, id="nil for values"),
        pytest.param("95 02 00 00 90 91 93 c400 00 91 c0", WrongTypeError, id="nil among values"),
        pytest.param("95 02 00 00 90 91 94 c400 00 01 c0", WrongTypeError, id="nil for a count"),
        pytest.param(
            "95 03 00 00 90 91 97 c400 00 01 00 00 00 00", WrongTypeError, id="a set of seven items"
        ),
        pytest.param("95 03 00 00 90 91 98 c400 00 ff 00 00 00 00 00", WrongTypeError, id="a negative count"),
        pytest.param(
            "95 03 00 00 90 91 99 c400 00 01 00 00 00 00 00 90", WrongTypeError, id="buckets without scale"
        ),
        pytest.param("92 04 00", WrongTypeError, id="a hello without sequence"),
        pytest.param("91 05", WrongTypeError, id="an ack without sequence"),
        pytest.param("94 05 00 00 01", WrongTypeError, id="1 for journaled"),
        pytest.param("92 00 90", UnknownTagError, id="tag 0"),
        pytest.param("92 06 90", UnknownTagError, id="tag 6"),
        pytest.param("91 7f", UnknownTagError, id="tag 127 alone"),
        pytest.param("92 ff 90", UnknownTagError, id="tag -1"),
        pytest.param("92 e0 90", UnknownTagError, id="tag -32"),
        pytest.param("92 01 91 93 a1ff 01 00", TextError, id="a name that is not UTF-8"),
        pytest.param("92 01 91 93 a3eda080 01 00", TextError, id="a surrogate in a name"),
        pytest.param("92 01 91 93 a2c080 01 00", TextError, id="an overlong zero in a name"),
        pytest.param("92 01 91 94 a161 01 00 91 92 a16b a1ff", TextError, id="a value that is not UTF-8"),
        pytest.param("92 01 91 95 a161 01 00 90 a1ff", TextError, id="a kind that is not UTF-8"),
        pytest.param("95 02 00 00 92 00 81 a1ff 00 90", TextError, id="a drop's reason that is not UTF-8"),
    ],
)
def test_each_cause_has_its_own_error(data: str, expected: type[ProtocolError]) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex(data))
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param("", MalformedFrameError, id="no bytes"),
        pytest.param("91", MalformedFrameError, id="truncated"),
        pytest.param("91 a161 00", MalformedFrameError, id="a byte after the end"),
        pytest.param("90", WrongTypeError, id="no name"),
        pytest.param("a161", WrongTypeError, id="a bare name"),
        pytest.param("91 06", WrongTypeError, id="an integer, which here is no tag"),
        pytest.param("92 a161 01", WrongTypeError, id="an integer for a kind"),
        pytest.param("91 a1ff", TextError, id="a name that is not UTF-8"),
        pytest.param("95 a161 c0 c0 90" + "91" * 50_000, NestingError, id="deep nesting"),
    ],
)
def test_each_cause_has_its_own_error_in_a_series(data: str, expected: type[ProtocolError]) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_series(bytes.fromhex(data))
    assert type(caught.value) is expected


@pytest.mark.parametrize("opening", ["91", "81", "81 01", "dc0001", "dd00000001", "de0001 01", "92 c0"])
@pytest.mark.parametrize(
    "head",
    [
        pytest.param("93 01 90", id="after the rows"),
        pytest.param("92 01 91 97 a161 01 00 90 c0 c0", id="in a row"),
        pytest.param("95 02 00 00 93 00 80", id="in the totals"),
        pytest.param("95 02 00 00 90 91 95 c400 00 01 01", id="in a column"),
        pytest.param(
            "95 03 00 00 90 91 99 c400 00 01 00 00 00 00 00 97 00 00 00 90 00 90", id="in the buckets"
        ),
        pytest.param("95 04 00 00 a0", id="in a hello"),
        pytest.param("97 05 00 00 c2 00 00", id="in an ack"),
    ],
)
def test_deep_nesting_has_its_own_error_wherever_unknown_items_may_be(head: str, opening: str) -> None:
    level = bytes.fromhex(opening)
    with pytest.raises(NestingError):
        decode(bytes.fromhex(head) + level * (60_000 // len(level)))


def test_after_deep_nesting_the_next_frame_is_decoded_as_ever() -> None:
    for _ in range(3):
        with pytest.raises(NestingError):
            decode(b"\x93\x01\x90" + b"\x91" * 60_000)
        assert decode(b"\x92\x01\x90") == EventsFrame([])


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        pytest.param("", ("dc", "dd"), id="items of the frame"),
        pytest.param("92 01", ("dc", "dd"), id="rows"),
        pytest.param("92 01 91", ("dc", "dd"), id="items of a row"),
        pytest.param("92 01 91 93", ("d9", "da", "db"), id="a name"),
        pytest.param("92 01 91 94 a161 01 00", ("dc", "dd"), id="dimensions"),
        pytest.param("95 02 00 00 92 00", ("de", "df"), id="reasons of drops"),
        pytest.param("95 02 00 00 90", ("dc", "dd"), id="columns"),
        pytest.param("95 02 00 00 90 91 93", ("c4", "c5", "c6"), id="a series"),
        pytest.param("95 02 00 00 90 91 93 c400 00", ("dc", "dd"), id="values"),
        pytest.param(
            "95 03 00 00 90 91 99 c400 00 01 00 00 00 00 00 94 00 00 00", ("dc", "dd"), id="buckets"
        ),
        pytest.param("93 01 90", ("c4", "c5", "c6", "d9", "da", "db"), id="unknown bytes and strings"),
        pytest.param(
            "93 01 90", ("c7", "c8", "c9", "dc", "dd", "de", "df"), id="unknown extensions, arrays and maps"
        ),
    ],
)
def test_a_claimed_length_beyond_the_datagram_is_malformed_and_costs_no_memory(
    head: str,
    headers: tuple[str, ...],
) -> None:
    for header in headers:
        size = LENGTH_BYTES[header]
        for length in (2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, 100):
            data = bytes.fromhex(head + header) + length.to_bytes(size, "big")
            tracemalloc.start()
            try:
                with pytest.raises(MalformedFrameError):
                    decode(data)
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak_bytes < MAX_DATAGRAM_BYTES


def test_a_datagram_of_the_largest_size_is_decoded_and_one_more_byte_is_too_large() -> None:
    overhead_bytes = len(encode(HelloFrame(1, 1, "x" * 60_000))) - 60_000
    largest = HelloFrame(1, 1, "x" * (MAX_DATAGRAM_BYTES - overhead_bytes))
    data = encode(largest)
    assert len(data) == MAX_DATAGRAM_BYTES
    assert decode(data) == largest
    for buffer in (data + b"\x00", bytearray(data + b"\x00"), memoryview(data + b"\x00")):
        with pytest.raises(FrameTooLargeError):
            decode(buffer)
    with pytest.raises(FrameTooLargeError):
        encode(HelloFrame(1, 1, largest.software + "x"))


def test_each_error_is_counted_under_a_reason_of_its_own() -> None:
    errors = ProtocolError.__subclasses__()
    assert {error.reason for error in errors} == {
        Reason.TOO_LARGE,
        Reason.MALFORMED,
        Reason.UNKNOWN_TAG,
        Reason.WRONG_TYPE,
        Reason.TEXT,
        Reason.NESTING,
    }
    assert all(isinstance(error.reason, Reason) for error in errors)
    assert len(errors) == len({error.reason for error in errors})
    assert issubclass(ProtocolError, ValueError)


# ---- tags


@every_integer
@every_array
@pytest.mark.parametrize("tag", SHORTEST_REST)
def test_a_tag_is_known_in_whatever_encoding_it_comes(tag: int, array: str, integer: str) -> None:
    rest = bytes.fromhex(SHORTEST_REST[tag])
    length = 1 + len(rest)
    frame = decode(ARRAY_HEADERS[array](length) + _encode_integer(integer, tag) + rest)
    assert isinstance(frame, FRAMES[tag - 1])


@every_integer
@every_array
@pytest.mark.parametrize("tag", SHORTEST_REST)
def test_a_known_tag_before_a_wrong_type_is_not_called_unknown(tag: int, array: str, integer: str) -> None:
    with pytest.raises(WrongTypeError):
        decode(ARRAY_HEADERS[array](2) + _encode_integer(integer, tag) + b"\xc0")


@every_integer
@every_array
def test_an_unknown_tag_is_unknown_in_whatever_encoding_it_comes(array: str, integer: str) -> None:
    _, size, is_signed = INTEGER_ENCODINGS[integer]
    # 1 in the first byte alone, or in the last alone, must not pass for tag 1.
    numbers = {0, 6, 127, 2 ** (8 * size - 1) - 1, 1 << 8 * (size - 1)} - {1}
    numbers |= {-1, -32, -(2 ** (8 * size - 1))} if is_signed else {2 ** (8 * size) - 1}
    for number in numbers:
        head = ARRAY_HEADERS[array](2) + _encode_integer(integer, number)
        for rest in (b"\x90", b"\xc0", b"", b"\x91" * 50_000):
            with pytest.raises(UnknownTagError):
                decode(head + rest)


@every_array
def test_an_empty_array_before_an_integer_is_no_unknown_tag(array: str) -> None:
    with pytest.raises((WrongTypeError, MalformedFrameError)):
        decode(ARRAY_HEADERS[array](0) + b"\x06")


def _encode_integer(encoding: str, number: int) -> bytes:
    first, size, is_signed = INTEGER_ENCODINGS[encoding]
    return bytes([first]) + number.to_bytes(size, "big", signed=is_signed)


# ---- growth: what a newer sender appends is skipped, what an older one leaves out has its default

EXTRA_ITEMS = st.lists(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(), items, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)


def _grow(frame: Frame, extra: list[Any]) -> bytes:
    """Encode a frame with items appended to it and to every struct inside it."""
    items = msgspec.msgpack.decode(msgspec.msgpack.encode(frame))
    if isinstance(frame, EventsFrame):
        items[1] = [row + extra for row in items[1]]
    elif isinstance(frame, ColumnsFrame | FoldedFrame):
        items[3] += extra
        items[4] = [item + extra for item in items[4]]
    if isinstance(frame, FoldedFrame):
        for item in items[4]:
            item[8] = None if item[8] is None else item[8] + extra
    return msgspec.msgpack.encode(items + extra)


@given(strategies.frames, EXTRA_ITEMS)
@settings(deadline=None, max_examples=300)
def test_items_after_the_known_ones_are_skipped_in_every_struct(frame: Frame, extra: list[Any]) -> None:
    assert decode(_grow(frame, extra)) == frame


@given(strategies.series, EXTRA_ITEMS)
@settings(deadline=None)
def test_items_after_the_known_ones_are_skipped_in_a_series(series: Series, extra: list[Any]) -> None:
    items = [series.name, series.kind, series.unit, series.dimensions, *extra]
    assert decode_series(msgspec.msgpack.encode(items)) == series


EVENT = MetricEvent("a", 1.5, 2.5, (("k", "v"),), "gauge", "ms")
TOTALS = Totals(5, {"buffer_full": 2})
COLUMN = Column(b"x", 7, [1.5], 3)
BUCKETS = Buckets(3, 1, 2, (1,), -4, (2,))
FOLDED = Folded(b"x", 7, 2, 3.0, 1.0, 2.0, 2.0, 8, BUCKETS)
HELLO = HelloFrame(1, 2, "example/1.0")
ACK = AckFrame(1, 2, journaled=True, interval_s=60.0, daemon_id=3)


@pytest.mark.parametrize(
    ("full", "defaults", "wrap", "unwrap"),
    [
        (EVENT, [(), None, None], lambda row: [1, [row]], lambda frame: frame.events[0]),
        (TOTALS, [0, {}], lambda totals: [2, 1, 1, totals, []], lambda frame: frame.totals),
        (TOTALS, [0, {}], lambda totals: [3, 1, 1, totals, []], lambda frame: frame.totals),
        (COLUMN, [1], lambda column: [2, 1, 1, [], [column]], lambda frame: frame.columns[0]),
        (FOLDED, [None], lambda folded: [3, 1, 1, [], [folded]], lambda frame: frame.sets[0]),
        (
            BUCKETS,
            [0, 0, (), 0, ()],
            lambda buckets: [3, 1, 1, [], [[b"x", 7, 2, 3.0, 1.0, 2.0, 2.0, 8, buckets]]],
            lambda frame: frame.sets[0].buckets,
        ),
        (HELLO, [""], lambda rest: [4, *rest], lambda frame: frame),
        (ACK, [0, False, 0.0, 0], lambda rest: [5, *rest], lambda frame: frame),
    ],
)
def test_items_missing_at_the_end_have_their_defaults(
    full: msgspec.Struct,
    defaults: list[Any],
    wrap: Callable[[list[Any]], list[Any]],
    unwrap: Callable[[Any], Any],
) -> None:
    items = [getattr(full, name) for name in full.__struct_fields__]
    required = len(items) - len(defaults)
    for length in range(required, len(items) + 1):
        found = unwrap(decode(msgspec.msgpack.encode(wrap(items[:length]))))
        assert type(found) is type(full)
        assert [getattr(found, name) for name in found.__struct_fields__] == (
            items[:length] + defaults[length - required :]
        )
    if required:
        with pytest.raises(WrongTypeError):
            decode(msgspec.msgpack.encode(wrap(items[: required - 1])))


def test_the_defaults_of_one_frame_are_not_those_of_another() -> None:
    first, second = decode(b"\x95\x02\x00\x00\x90\x90"), decode(b"\x95\x02\x00\x00\x90\x90")
    assert isinstance(first, ColumnsFrame)
    assert isinstance(second, ColumnsFrame)
    first.totals.dropped["buffer_full"] = 1
    assert second.totals.dropped == {}


def test_what_cannot_be_encoded_is_said_plainly() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode(EventsFrame([MetricEvent("\ud800", 1.0, 0.0)]))
    with pytest.raises(UnicodeEncodeError):
        encode_series(Series("\ud800"))
    with pytest.raises(OverflowError):
        encode(EventsFrame([MetricEvent("a", 2**64, 0.0)]))


def test_golden_frames_of_one_type_differ_from_every_other_type() -> None:
    types = {type(decode(golden.data)) for golden in read_golden().values() if "Series" not in golden.value}
    assert types == set(FRAMES)


# ---- rows whose dimensions wait


def _decode_in_two_steps(data: bytes) -> Frame:
    """Decode as the daemon does: dimensions are decoded only when a row is looked at."""
    frame = decode_deferred(data)
    if not isinstance(frame, RowsFrame):
        return frame
    return EventsFrame(
        [
            MetricEvent(
                row.name,
                row.value,
                row.timestamp,
                decode_dimensions(bytes(row.dimensions)),
                row.kind,
                row.unit,
            )
            for row in frame.events
        ],
    )


@given(strategies.frames, EXTRA_ITEMS)
@settings(deadline=None)
def test_decoding_in_two_steps_gives_the_same_frame(frame: Frame, extra: list[Any]) -> None:
    assert _decode_in_two_steps(encode(frame)) == frame
    assert _decode_in_two_steps(_grow(frame, extra)) == frame


def test_decoding_in_two_steps_accepts_and_refuses_the_same_datagrams() -> None:
    accepted = 0
    for data in random_datagrams(9, 40_000):
        at_once, in_two_steps = _try(decode, data), _try(_decode_in_two_steps, data)
        assert isinstance(in_two_steps, (*FRAMES, ProtocolError))
        assert isinstance(at_once, ProtocolError) is isinstance(in_two_steps, ProtocolError)
        # The text of a frame: NaN differs from itself.
        assert isinstance(at_once, ProtocolError) or repr(at_once) == repr(in_two_steps)
        accepted += not isinstance(at_once, ProtocolError)
    assert accepted > 1_000


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param("92 06 90", UnknownTagError, id="tag 6"),
        pytest.param("92 cf 0000000000000006 90", UnknownTagError, id="tag 6 in nine bytes"),
        pytest.param("92 01 c0", WrongTypeError, id="nil for rows"),
        pytest.param("92 01 91 93 a1ff 01 00", TextError, id="a name that is not UTF-8"),
        pytest.param("92 01 91 94 a161 01 00 81 a16b a176", WrongTypeError, id="a map for dimensions"),
        pytest.param("92 01 91 94 a161 01 00 91 92 a16b a1ff", TextError, id="a value that is not UTF-8"),
        pytest.param("92 01 91 94 a161 01 00 dd ffffffff", MalformedFrameError, id="dimensions without end"),
        pytest.param("92 01 91 94 a161 01 00" + "91" * 60_000, NestingError, id="deep nesting in dimensions"),
        pytest.param("", MalformedFrameError, id="no bytes"),
        pytest.param("00" * 65_537, FrameTooLargeError, id="too large"),
    ],
)
def test_each_cause_has_its_own_error_in_two_steps_too(data: str, expected: type[ProtocolError]) -> None:
    with pytest.raises(ProtocolError) as caught:
        _decode_in_two_steps(bytes.fromhex(data))
    assert type(caught.value) is expected
