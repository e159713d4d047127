"""Bytes -> frame, frame -> bytes. Whatever the bytes are, `decode` returns a frame or raises `ProtocolError`."""

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
from aiokpl_metrics_protocol.frames import Frame
from aiokpl_metrics_protocol.limits import MAX_DATAGRAM_BYTES
from aiokpl_metrics_protocol.series import Series

_T = TypeVar("_T")

_encoder = Encoder()
_frame_decoder: "Decoder[Frame]" = Decoder(Frame)
_series_decoder = Decoder(Series)

_TAGS = frozenset(range(1, 6))

# The tag ends here at the latest: after an array's 32-bit length and a 64-bit integer, one byte before each.
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
        _raise_protocol_error(error, bytes(data[:_HEAD_BYTES]), framed=decoder is _frame_decoder)


def _raise_protocol_error(error: Exception, head: bytes, *, framed: bool) -> NoReturn:
    """Translate what msgspec raised, by its type and the frame's tag, never by its text."""
    found: type[ProtocolError]
    if isinstance(error, RecursionError):
        found = NestingError
    elif isinstance(error, UnicodeDecodeError):
        found = TextError
    elif isinstance(error, msgspec.ValidationError):
        found = UnknownTagError if framed and _has_unknown_tag(head) else WrongTypeError
    else:
        found = MalformedFrameError
    raise found(str(error)) from error


def _has_unknown_tag(head: bytes) -> bool:
    """Tell whether the bytes begin an array whose first item is an integer that is no tag."""
    # msgpack: 0x90-0x9f an array of up to 15 items, 0xdc one with a 16-bit length, 0xdd with a 32-bit length.
    skip = 1 if head[0] & 0xF0 == 0x90 else {0xDC: 3, 0xDD: 5}.get(head[0], 0)
    # An empty array has no tag; what follows it is something else.
    if not skip or head[0] == 0x90 or (skip > 1 and not any(head[1:skip])):
        return False
    tag = head[skip : skip + 1]
    # 0x00-0x7f and 0xe0-0xff are small integers themselves, 0xcc-0xd3 announce one of one to eight bytes.
    if not tag or (0x80 <= tag[0] < 0xE0 and not 0xCC <= tag[0] <= 0xD3):
        return False
    if tag[0] < 0x80 or tag[0] >= 0xE0:
        return tag[0] not in _TAGS
    return int.from_bytes(head[skip + 1 : skip + 1 + 2 ** ((tag[0] - 0xCC) % 4)], "big") not in _TAGS


__all__ = ["decode", "decode_series", "encode", "encode_series"]
