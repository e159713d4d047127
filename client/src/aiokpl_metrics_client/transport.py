"""Frame -> socket. Never blocks but in `wait`, never raises; says what became of the frame.

There are two ways to a daemon. A *lane* is a connection on which frames are acknowledged; the *front door* is
a datagram socket without answers. The lane comes first, and only where the daemon offers none, or refuses it,
is the front door used: never because an answer is slow.
"""

import errno
import os
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, cast

from aiokpl_metrics_client import descriptor
from aiokpl_metrics_protocol import (
    MAX_DATAGRAM_BYTES,
    AckFrame,
    HelloFrame,
    ProtocolError,
    decode,
    encode,
    is_trusted_directory,
    socket_candidates,
)

if TYPE_CHECKING:
    import socket

# At "0", lanes are not looked for.
LANE_VARIABLE = "AIOKPL_METRICSD_LANE"
LANE_SUFFIX = ".lane"

# The kernel is short of memory for now: the same as a full queue (reasoned from unix(7); never seen).
_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM, errno.EINTR})

# The daemon reads no more. What it has sent may still be there to read.
_ENDING = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})

# This process, or the system, has no descriptor left: nothing is known of the daemon.
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})

# The kernel's own bytes come on top of a datagram's.
_SEND_BUFFER_BYTES = 2 * MAX_DATAGRAM_BYTES

# A lane is writable again once a quarter of its buffer is in use. Linux grants twice what is asked for, up to
# twice `net.core.wmem_max` (socket(7), read 2026-11).
_LANE_BUFFER_BYTES = 4 * MAX_DATAGRAM_BYTES

# An ack has 40 bytes; of a later version, maybe some more.
_MAX_ACK_BYTES = 1_024

# Acks read in one go: a lane has one pending, so that more is no daemon of ours.
_MAX_ACKS = 1_000

# Where the kernel calls the socket writable and still refuses (another producer was quicker, or memory is
# short), the next try waits a little longer each time.
_REFUSED_PAUSE_S = 0.001
_MAX_REFUSED_PAUSES = 20


class Outcome(Enum):
    """What became of a frame."""

    SENT = "sent"
    FULL = "full"
    AWAY = "away"
    TOO_LARGE = "too_large"


class Way(str, Enum):
    """How frames go to the daemon."""

    NONE = ""
    LANE = "lane"
    FRONT_DOOR = "front_door"

    def __str__(self) -> str:
        """Return the word itself, the same on every Python."""
        return self.value


class Transport:
    """A connected Unix socket, found and connected when there is something to send.

    Args:
        path: the front door's path; where None, the usual places are looked through at each connection.
        lanes: whether to look for lanes. They need an `introduction` too.

    Attributes:
        introduction: makes the hello of a lane; who has none has no lane.
        lane_only: frames that a lane has taken are not acknowledged, so that the front door must not be used.
        way: how frames go now.
        lanes_answered: how often a lane was opened and answered.
        offers_no_lane: at the last try there was a daemon, and only its front door.
        connected_path: the socket's path that was last connected to.
        problem: why there is no connection, in words.
        supported: False where there are no Unix sockets.
    """

    def __init__(self, path: str | None, *, lanes: bool = True) -> None:
        """Open nothing yet."""
        self._path = path
        self._lanes = lanes
        self._socket: socket.socket | None = None
        self._identity = descriptor.NOTHING
        self._acks: list[AckFrame] = []
        self._pid = os.getpid()
        self._refusals = 0
        self._is_blocked = False
        self._is_answered = False
        self._is_ending = False
        self._is_crowded = False
        self._skips_lane = False
        self.introduction: Callable[[], HelloFrame] | None = None
        self.lane_only = False
        self.way = Way.NONE
        self.lanes_answered = 0
        self.offers_no_lane = False
        self.connected_path: str | None = None
        self.problem = ""
        self.supported = True

    def send(self, data: bytes) -> Outcome:
        """Hand one frame to the kernel, if it takes it at once. On a lane, only after the hello's answer."""
        connection = self._socket
        if connection is None or not self._is_ours(connection):
            if os.getpid() != self._pid:
                # A signal handler has forked in the midst of a send, and its child has closed the socket.
                return Outcome.AWAY
            connection = self._connect()
            if connection is None:
                return Outcome.FULL if self._is_crowded else Outcome.AWAY
        if self.way is Way.LANE and not self._is_answered:
            return Outcome.FULL
        if self._is_ending:
            return Outcome.AWAY
        try:
            connection.send(data, self._flags)
        except OSError as error:
            return self._note_refused(error)
        self._refusals = 0
        self._is_blocked = False
        return Outcome.SENT

    def receive(self) -> list[AckFrame]:
        """Return the acks that came. The first of a lane answers the hello; `lanes_answered` then grows.

        Whoever takes them in removes them from the list: until then they come again. A Ctrl-C may come out of
        any of it, and an ack that it took away would never come again.
        """
        acks = self._acks
        connection = self._socket
        if connection is None or self.way is not Way.LANE:
            return acks
        if not self._is_ours(connection):
            self.close()
            return acks
        for _ in range(_MAX_ACKS):
            try:
                # It stays in the socket until it is in the list. Twice is as good as once.
                if not self._take_ack(connection.recv(_MAX_ACK_BYTES, self._peek_flags), acks):
                    break
                connection.recv(_MAX_ACK_BYTES, self._flags)
            except OSError as error:
                if error.errno in _FULL:
                    break
                if error.errno == errno.ECONNRESET:
                    # It comes in front of what the daemon had sent before it went.
                    self._is_ending = True
                    continue
                self._take_ack(b"", acks)
                break
        return acks

    def wait(self, timeout_s: float) -> bool:
        """Wait until the socket takes another frame or an ack is there. False at once without a connection.

        POLLOUT is reliable on a connected datagram socket; on an unconnected one it lies (measured).
        """
        connection = self._socket
        if connection is None:
            return False
        is_lane = self.way is Way.LANE
        is_writable = descriptor.wait_for(
            connection.fileno(),
            timeout_s,
            reads=is_lane,
            writes=not is_lane or (self._is_blocked and not self._is_ending),
        )
        if is_writable is None:
            return False
        if is_writable and self._refusals > 1:
            pauses = min(self._refusals, _MAX_REFUSED_PAUSES)
            time.sleep(min(timeout_s, pauses * _REFUSED_PAUSE_S))
        return True

    def close(self) -> None:
        """Close the socket. The next `send` opens a new one."""
        connection, self._socket = self._socket, None
        self.way = Way.NONE
        self._is_blocked = self._is_answered = self._is_ending = False
        if connection is not None:
            descriptor.close(connection, self._identity)

    def _note_refused(self, error: OSError) -> Outcome:
        if error.errno in _FULL:
            self._refusals += 1
            self._is_blocked = True
            return Outcome.FULL
        if error.errno == errno.EMSGSIZE:
            return Outcome.TOO_LARGE
        # The daemon went: on the front door ECONNREFUSED first, ENOTCONN from then on (measured on Linux
        # 6.18). Anything else is no better: a new connection tells.
        self.problem = f"{self.connected_path}: {error.strerror or error}"
        if self.way is Way.LANE and error.errno in _ENDING:
            # There may be acks to read, and more may come: a daemon that ends reads and acknowledges first.
            self._is_ending = True
        else:
            self.close()
        return Outcome.AWAY

    def _take_ack(self, message: bytes, acks: list[AckFrame]) -> bool:
        """Take one message of the daemon's. Return False when the lane is over."""
        frame: object = None
        if message:
            try:
                frame = decode(message)
            except ProtocolError:
                frame = None
        if not isinstance(frame, AckFrame):
            answer = (
                "what answers is no daemon of this client's wire version"
                if message
                else "the daemon has ended"
            )
            self.problem = f"{self.connected_path}: {answer}"
            self.close()
            return False
        if not self._is_answered:
            if frame.daemon_id == 0 and frame.interval_s == 0:
                self.problem = f"{self.connected_path}: the daemon refuses a lane"
                self._skips_lane = True
                self.close()
                return False
            self.lanes_answered += 1
            self._is_answered = True
            self.problem = ""
        acks.append(frame)
        return True

    def _is_ours(self, connection: "socket.socket") -> bool:
        """Tell whether the descriptor still is the socket that we opened, and no other file by its number."""
        return descriptor.is_still(connection, self._identity)

    def _connect(self) -> "socket.socket | None":
        # After a refusal the front door is tried; and when its descriptor was lost, the front door again:
        # its daemon may still have to read what we sent there, and on a lane we would overtake that.
        looks_for_lane = not self._skips_lane and self.way is not Way.FRONT_DOOR
        self._skips_lane = False
        self.close()
        self.offers_no_lane = self._is_crowded = False
        import socket

        if not hasattr(socket, "AF_UNIX"):
            self.supported = False
            self.problem = "this platform has no Unix sockets"
            return None
        self._flags = cast("int", socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0))
        self._peek_flags = self._flags | socket.MSG_PEEK
        candidates = socket_candidates() if self._path is None else (self._path,)
        problem = f"no daemon listens at {' or '.join(candidates)}"
        for path in candidates:
            if self._path is None and not is_trusted_directory(path):
                continue
            try:
                connection = self._open_lane(path) if looks_for_lane else None
                if connection is None and not self._is_crowded:
                    connection = self._open(path)
                    if looks_for_lane:
                        # A daemon opens the lanes before the front door. One that came up between our two
                        # attempts has them by now, and without this look we would never know.
                        connection = self._exchange(connection, path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                # Nor is a front door kept whose lanes nothing is known of.
                self.close()
                problem = f"{path}: {getattr(error, 'strerror', None) or error}"
                continue
            if self._is_crowded:
                self.close()
                self.problem = f"{path}: more lanes wait for the daemon than the kernel queues"
                return None
            if self.way is Way.LANE or not self.lane_only:
                return connection
            self.close()
            self.offers_no_lane = True
            self.problem = f"{path}: the daemon offers no lane for frames that one had taken"
            return None
        self.problem = problem
        return None

    def _exchange(self, front_door: "socket.socket", path: str) -> "socket.socket":
        """Return the lane where there is one, and close the front door then."""
        identity = self._identity
        lane = self._open_lane(path)
        if lane is None:
            return front_door
        descriptor.close(front_door, identity)
        return lane

    def _open_lane(self, path: str) -> "socket.socket | None":
        """Return a lane on which the hello is sent, or None when the daemon at `path` offers none.

        Raises:
            OSError: nothing is known of the daemon, or it went just now.
        """
        import socket

        if not self._lanes or self.introduction is None or not hasattr(socket, "SOCK_SEQPACKET"):
            return None
        hello = encode(self.introduction())
        try:
            connection = descriptor.make_socket(socket.SOCK_SEQPACKET)
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                raise
            return None
        identity = descriptor.identify(connection)
        try:
            connection.setblocking(False)  # noqa: FBT003 - its only argument
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LANE_BUFFER_BYTES)
            try:
                connection.connect(path + LANE_SUFFIX)
            except (OSError, ValueError) as error:
                descriptor.close(connection, identity)
                self._is_crowded = getattr(error, "errno", None) in _FULL
                return None
            is_over = False
            try:
                descriptor.check(connection, identity)
                connection.send(hello, self._flags)
            except OSError as error:
                if error.errno not in _ENDING:
                    raise
                # A daemon that refuses the lane need not wait for the hello: its answer is there to be read.
                is_over = True
            self._adopt(connection, identity, path + LANE_SUFFIX, Way.LANE)
            self._is_ending = is_over
        except BaseException:
            descriptor.close(connection, identity)
            raise
        return connection

    def _open(self, path: str) -> "socket.socket":
        import socket

        connection = descriptor.make_socket(socket.SOCK_DGRAM)
        identity = descriptor.identify(connection)
        try:
            connection.setblocking(False)  # noqa: FBT003 - its only argument
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < _SEND_BUFFER_BYTES:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            connection.connect(path)
            self._adopt(connection, identity, path, Way.FRONT_DOOR)
        except BaseException:
            descriptor.close(connection, identity)
            raise
        return connection

    def _adopt(self, connection: "socket.socket", identity: descriptor.Identity, path: str, way: Way) -> None:
        self._identity = identity
        self._socket = connection
        self._refusals = 0
        self.way = way
        self.connected_path = path
        if way is Way.FRONT_DOOR:
            # A lane may still answer with something else.
            self.problem = ""

    _flags = _peek_flags = 0


__all__ = ["LANE_SUFFIX", "LANE_VARIABLE", "Outcome", "Transport", "Way"]
