"""What `decode` and `encode` raise. Whose fault: the sender's, always. None is worth a retry.

ProtocolError            one frame or series blob is refused whole; counted under `reason`
├── FrameTooLargeError   more than MAX_DATAGRAM_BYTES
├── MalformedFrameError  truncated, bytes after the end, or no msgpack at all
├── UnknownTagError      the first item is an integer that is no tag of this wire version
├── WrongTypeError       msgpack, but not the shape of its tag
├── TextError            a string that is not UTF-8
└── NestingError         nested deeper than any frame is
"""

from typing import ClassVar

from aiokpl_metrics_protocol.reasons import Reason


class ProtocolError(ValueError):
    """One frame is refused. `reason` is the word under which it is counted."""

    reason: ClassVar[Reason] = Reason.MALFORMED


class FrameTooLargeError(ProtocolError):
    """The frame is larger than `MAX_DATAGRAM_BYTES`."""

    reason = Reason.TOO_LARGE


class MalformedFrameError(ProtocolError):
    """The bytes are truncated, go on after the end of the frame, or are no msgpack."""

    reason = Reason.MALFORMED


class UnknownTagError(ProtocolError):
    """The frame's tag belongs to no frame of this wire version."""

    reason = Reason.UNKNOWN_TAG


class WrongTypeError(ProtocolError):
    """The bytes are msgpack, but an item has not the type that its place asks for."""

    reason = Reason.WRONG_TYPE


class TextError(ProtocolError):
    """A string is not UTF-8."""

    reason = Reason.TEXT


class NestingError(ProtocolError):
    """Arrays or maps are nested deeper than any frame is."""

    reason = Reason.NESTING


__all__ = [
    "FrameTooLargeError",
    "MalformedFrameError",
    "NestingError",
    "ProtocolError",
    "TextError",
    "UnknownTagError",
    "WrongTypeError",
]
