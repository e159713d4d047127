"""Bytes -> frame, frame -> bytes. Any bytes whatever give a frame or a `ProtocolError`, and nothing else."""

from typing import NoReturn, TypeVar

import msgspec
from msgspec.msgpack import Decoder, Encoder

from aiokpl_metrics_protocol.errors import (
    FrameTooLargeError,
    MalformedFrameError,
    NestingError,
    ProtocolError,
    TextError,
    UnknownTagError,
    WrongTypeError,
)
from aiokpl_metrics_protocol.frames import DeferredFrame, Frame
from aiokpl_metrics_protocol.limits import MAX_DATAGRAM_BYTES
from aiokpl_metrics_protocol.series import Series

_T = TypeVar("_T")

_encoder = Encoder()
_frame_decoder: "Decoder[Frame]" = Decoder(Frame)
_deferred_decoder: "Decoder[DeferredFrame]" = Decoder(DeferredFrame)
_dimensions_decoder = Decoder(tuple[tuple[str, str], ...])
_series_decoder = Decoder(Series)
_raw_decoder = Decoder(msgspec.Raw)

_TAGS = frozenset(range(1, 6))

# msgpack's first bytes (its specification, read 2026-11): how many bytes of length follow the one that begins
# an array, and of number the one that begins an integer. 0x90 is not there: an empty array has no tag.
_ARRAY_LENGTH_BYTES = {**dict.fromkeys(range(0x91, 0xA0), 0), 0xDC: 2, 0xDD: 4}
_INTEGER_BYTES = {
    **dict.fromkeys((*range(0x80), *range(0xE0, 0x100)), 0),
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}

# The tag ends here at the latest: after a 32-bit length and a 64-bit number, each behind a byte of its own.
_HEAD_BYTES = 14


def encode(frame: Frame) -> bytes:
    """Return the datagram that carries `frame`.

    Raises:
        FrameTooLargeError: it would exceed `MAX_DATAGRAM_BYTES`.
        UnicodeEncodeError: a string holds a lone surrogate.
        OverflowError: an integer has more than 64 bits.
    """
    data = _encoder.encode(frame)
    if len(data) > MAX_DATAGRAM_BYTES:
        message = f"the frame has {len(data)} bytes; send at most {MAX_DATAGRAM_BYTES} in one datagram"
        raise FrameTooLargeError(message)
    return data


def decode(data: bytes | bytearray | memoryview) -> Frame:
    """Return the frame that a datagram carries.

    Raises:
        FrameTooLargeError: more than `MAX_DATAGRAM_BYTES`.
        MalformedFrameError: truncated, bytes after the end, or no msgpack.
        UnknownTagError: a tag that is none of wire version 1.
        WrongTypeError: msgpack, but not the shape of its tag.
        TextError: a string that is not UTF-8.
        NestingError: nested deeper than any frame is.
    """
    if len(data) > MAX_DATAGRAM_BYTES:
        message = f"the datagram has {len(data)} bytes; at most {MAX_DATAGRAM_BYTES} are allowed"
        raise FrameTooLargeError(message)
    return _decode_with(_frame_decoder, data)


def decode_deferred(data: bytes | bytearray | memoryview) -> DeferredFrame:
    """Return the frame that a datagram carries, with the dimensions of rows not yet decoded.

    They refer to `data`, so they hold only as long as it does not change. A row whose dimensions
    `decode_dimensions` then refuses makes its frame one that does not decode.

    Raises:
        ProtocolError: one of its children, as for `decode`.
    """
    if len(data) > MAX_DATAGRAM_BYTES:
        message = f"the datagram has {len(data)} bytes; at most {MAX_DATAGRAM_BYTES} are allowed"
        raise FrameTooLargeError(message)
    return _decode_with(_deferred_decoder, data)


def decode_dimensions(data: bytes) -> tuple[tuple[str, str], ...]:
    """Return the dimensions of a row, given their bytes.

    Raises:
        ProtocolError: one of its children, as for `decode`; never `FrameTooLargeError`.
    """
    return _decode_with(_dimensions_decoder, data)


def encode_series(series: Series) -> bytes:
    """Return the bytes by which columns and folded sets name `series`. Sort its dimensions first.

    Raises:
        UnicodeEncodeError: a string holds a lone surrogate.
    """
    return _encoder.encode(series)


def decode_series(data: bytes) -> Series:
    """Return the series that a column's or folded set's bytes name.

    Raises:
        ProtocolError: one of its children, as for `decode`; never `FrameTooLargeError`.
    """
    return _decode_with(_series_decoder, data)


def _decode_with(decoder: "Decoder[_T]", data: bytes | bytearray | memoryview) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        framed = decoder is _frame_decoder or decoder is _deferred_decoder
        _raise_protocol_error(error, data, framed=framed)


def _raise_protocol_error(
    error: Exception, data: bytes | bytearray | memoryview, *, framed: bool
) -> NoReturn:
    """Translate what msgspec raised, by its type and the frame's tag, never by its text."""
    found: type[ProtocolError]
    if isinstance(error, RecursionError):
        found = NestingError
    elif isinstance(error, UnicodeDecodeError):
        found = TextError
    elif isinstance(error, msgspec.ValidationError):
        unknown = framed and _has_unknown_tag(bytes(data[:_HEAD_BYTES]))
        found = UnknownTagError if unknown else WrongTypeError
    else:
        # From 0.23 on msgspec has no error of its own for text.
        found = TextError if _is_well_formed(data) else MalformedFrameError
    raise found(str(error)) from error


def _is_well_formed(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether the bytes are one msgpack value, whatever is in its strings."""
    try:
        _raw_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _has_unknown_tag(head: bytes) -> bool:
    """Tell whether the bytes begin an array whose first item is an integer that is no tag."""
    length_bytes = _ARRAY_LENGTH_BYTES.get(head[0])
    if length_bytes is None or (length_bytes and not any(head[1 : 1 + length_bytes])):
        return False
    tag = head[1 + length_bytes :]
    number_bytes = _INTEGER_BYTES.get(tag[0]) if tag else None
    if number_bytes is None:
        return False
    # Signs do not matter: no negative number, read as a positive one, is a tag.
    return int.from_bytes(tag[1 : 1 + number_bytes] if number_bytes else tag[:1], "big") not in _TAGS


__all__ = ["decode", "decode_deferred", "decode_dimensions", "decode_series", "encode", "encode_series"]
