"""What a sink must remember across restarts <-> a file in `state_dir`.

Totals that only ever grow, as a sink with cumulative figures keeps them, go on after an orderly end. They are
written when the daemon has delivered everything and read once at the next start, which removes the file:
after a SIGKILL there is none, and the totals begin anew with a start time of their own. To go on from
older ones would make a total go back.

A sink that wants this has `dump_state() -> bytes` and `load_state(bytes)`, called before it is entered.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.contract import RememberingSink

_log = logging.getLogger("aiokpl_metricsd.state")

_FOLDER = "sinks"


class StateFolder:
    """The folder with a file for each sink that remembers something.

    Args:
        state_dir: the daemon's state directory; None remembers nothing.

    Raises:
        ConfigurationError: the directory cannot be made.
    """

    def __init__(self, state_dir: str | None) -> None:
        """Make the directory, closed to others."""
        self._folder = None if state_dir is None else Path(state_dir, _FOLDER)
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise _refuse_folder(self._folder, error) from None

    def recall(self, name: str, sink: object) -> None:
        """Give a sink what it remembered, once. What cannot be read is said, and the sink begins anew."""
        if self._folder is None or not isinstance(sink, RememberingSink):
            return
        path = self._folder / _file_name(name)
        try:
            state = path.read_bytes()
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            self._complain(name, path, error)
            return
        try:
            sink.load_state(state)
        except Exception as error:  # noqa: BLE001 - of another version, or damaged: the sink begins anew
            self._complain(name, path, error)

    def keep(self, sinks: Iterable[tuple[str, object]]) -> None:
        """Write what the sinks remember, each file whole or not at all."""
        if self._folder is None:
            return
        for name, sink in sinks:
            if not isinstance(sink, RememberingSink):
                continue
            path = self._folder / _file_name(name)
            temporary = path.with_suffix(".new")
            try:
                with open(temporary, "wb", opener=_open_private) as file:
                    file.write(sink.dump_state())
                temporary.replace(path)
            except Exception as error:  # noqa: BLE001 - a full disk or a sink's fault costs only this state
                self._complain(name, path, error)
                with suppress(OSError):
                    temporary.unlink()

    def _complain(self, name: str, path: Path, error: Exception) -> None:
        fields = {"sink": name, "file": str(path), "error": repr(error)}
        _log.warning("what the sink remembered is lost; its totals begin anew", extra={"fields": fields})


def check_state_dir(state_dir: str | None) -> None:
    """Make sure that `StateFolder` can have its directory, and make nothing.

    Raises:
        ConfigurationError: the directory cannot be made.
    """
    if state_dir is None:
        return
    folder = Path(state_dir, _FOLDER)
    try:
        _find_room(folder)
    except (OSError, ValueError) as error:
        raise _refuse_folder(folder, error) from None


def _find_room(folder: Path) -> None:
    """Raise what making the folder and its parents would raise, as far as can be seen."""
    for path in (folder, *folder.absolute().parents):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if path != folder and not os.access(path, os.W_OK | os.X_OK):
            is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            number = errno.EROFS if is_read_only else errno.EACCES
            raise OSError(number, os.strerror(number))
        return


def _refuse_folder(folder: Path, error: OSError | ValueError) -> ConfigurationError:
    reason = error.strerror if isinstance(error, OSError) else None
    shown = str(folder).replace("\0", "\\0")
    return ConfigurationError(f"state_dir: {shown} cannot be made: {reason or error}")


def _file_name(name: str) -> str:
    """Return a file's name for a sink's: a TOML key may hold anything, a path's separator included."""
    return f"{name.encode().hex()}.state"


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


__all__ = ["RememberingSink", "StateFolder", "check_state_dir"]
