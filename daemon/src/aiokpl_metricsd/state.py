"""The state directory: the outbox and the journal of one daemon, opened together and given back together.

Its identity is the outbox's: a journal's segments carry it, so that those of another database are not
replayed on top of this one.
"""

import asyncio
import errno
import os
import stat
from pathlib import Path

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.journal import Journal
from aiokpl_metricsd.outbox import Outbox

_JOURNAL = "journal"

# How long the database may take to close, beside the time that the sinks were given. On a disk that hangs
# it takes for ever.
_CLOSE_S = 2.0


class State:
    """One state directory, in use.

    Attributes:
        outbox: checkpoints and closed windows.
        journal: the frames since the last checkpoint.
    """

    def __init__(self, outbox: Outbox, journal: Journal) -> None:
        """Take over both."""
        self.outbox = outbox
        self.journal = journal

    @property
    def brings_again(self) -> bool:
        """Whether the next daemon counts again all that no checkpoint covers."""
        return self.journal.is_whole and not self.outbox.is_damaged

    async def close(self) -> None:
        """Give the directory back. What is in it stays."""
        self.journal.close()
        try:
            await asyncio.wait_for(self.outbox.close(), _CLOSE_S)
        except TimeoutError:
            # The last transactions are in the database's own log, or were never taken by the disk.
            return


def open_state(state_dir: str, *, outbox_max_bytes: int, fsync: bool = False) -> State:
    """Open a state directory, made where it is missing, and read what the last daemon left.

    Synchronous: to be called before the event loop runs.

    Args:
        state_dir: the directory; of one daemon at a time.
        outbox_max_bytes: of undelivered windows; past it the oldest goes.
        fsync: wait for the device, too, before anything is acknowledged or delivered.

    Raises:
        ConfigurationError: the directory cannot be used, or is a later version's.
        StateInUseError: another daemon uses it.
    """
    check_state_dir(state_dir)
    directory = Path(state_dir)
    outbox = Outbox.open(directory, max_bytes=outbox_max_bytes, fsync=fsync)
    try:
        journal = Journal(directory / _JOURNAL, outbox.state_id, fsync=fsync)
    except BaseException:
        outbox.abandon()
        raise
    return State(outbox, journal)


def check_state_dir(state_dir: str | None) -> None:
    """Make sure, as far as can be seen, that `open_state` can have its directory, and make nothing.

    Raises:
        ConfigurationError: the directory cannot be made.
    """
    if state_dir is None:
        return
    directory = Path(state_dir)
    try:
        _find_room(directory)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        shown = str(directory).replace("\0", "\\0")
        raise ConfigurationError(f"state_dir: {shown} cannot be made: {reason or error}") from None


def _find_room(directory: Path) -> None:
    """Raise what making the directory and its parents would raise, as far as can be seen."""
    for path in (directory, *directory.absolute().parents):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not os.access(path, os.W_OK | os.X_OK):
            is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            number = errno.EROFS if is_read_only else errno.EACCES
            raise OSError(number, os.strerror(number))
        return


__all__ = ["State", "check_state_dir", "open_state"]
