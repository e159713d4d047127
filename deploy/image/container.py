"""Image -> a running daemon, as an engine runs it: process 1 of its own, read-only root, the image's user.

The network is the machine's, so that a test's backends on the loopback are reached. What the image says of
itself is what is run: entry point, environment, user and health check.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from aiokpl_metricsd.healthcheck import connect
from deploy.image.engine import Image

__all__ = ["Container", "Shared", "can_connect"]

_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 60.0
_POLL_S = 0.001

RUN, STATE, CONFIGURATION = "/run/aiokpl-metricsd", "/var/lib/aiokpl-metricsd", "/etc/aiokpl-metricsd"

_NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--propagation=private")
_UNSHARE = ("unshare", *_NAMESPACES, "--fork", "--kill-child")

# Arguments: the image's root, the container's directory, the directory of the socket and how it is mounted;
# then the variables and the command. The image's shells are taken away: nothing may need one.
_SCRIPT = """
set -eu
root=$1 own=$2 run=$3 access=$4
shift 4
mount --bind "$root" "$own/root"
mount -o remount,bind,ro,nosuid "$own/root"
mount --bind "$run" "$own/root/run/aiokpl-metricsd"
mount -o "remount,bind,$access" "$own/root/run/aiokpl-metricsd"
mount --bind "$own/state" "$own/root/var/lib/aiokpl-metricsd"
mount --bind "$own/etc" "$own/root/etc/aiokpl-metricsd"
mount -o remount,bind,ro "$own/root/etc/aiokpl-metricsd"
mount --bind /dev "$own/root/dev"
mount -t proc proc "$own/root/proc"
for shell in "$own"/root/usr/bin/dash "$own"/root/usr/bin/bash; do
    [ ! -e "$shell" ] || mount --bind /dev/null "$shell"
done
exec setpriv --no-new-privs env -i "$@"
"""


class Shared(NamedTuple):
    """What a producer's container has of the daemon's.

    Attributes:
        run: the directory of the socket, mounted to be read alone.
        groups: that it is in besides its own.
    """

    run: Path
    groups: Sequence[str]


class Container:
    """A running daemon, or a producer, started when it is made, and ended with the context.

    Args:
        image: mounted.
        directory: for its volumes and output; short, since a socket is in it.
        arguments: of the entry point.
        configuration: the text of `sinks.toml`.
        environ: variables on top of the image's.
        shared: what a producer has of the daemon's; None of the daemon itself.

    Attributes:
        run: what is mounted where the socket is.
        started: when process 1 was the image's own, on the clock of `time.monotonic`; 0 until then.
    """

    def __init__(
        self,
        image: Image,
        directory: Path,
        arguments: Sequence[str] = ("--config", f"{CONFIGURATION}/sinks.toml"),
        configuration: str = "",
        environ: dict[str, str] | None = None,
        shared: Shared | None = None,
    ) -> None:
        """Start it."""
        self._image = image
        self._directory = directory
        user, _, group = image.config["User"].partition(":")
        for name in ("root", "run", "state", "etc"):
            (directory / name).mkdir()
        # As an engine does where the image has none.
        for place in (RUN, STATE, CONFIGURATION):
            (image.root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name, mode in (("run", 0o2750), ("state", 0o700)):
            os.chown(directory / name, int(user), int(group))
            (directory / name).chmod(mode)
        (directory / "etc" / "sinks.toml").write_text(configuration, encoding="utf-8")
        self.run = directory / "run" if shared is None else shared.run
        self.environ = dict(each.split("=", 1) for each in image.config["Env"]) | (environ or {})
        self.started = 0.0
        self._cpu_before_s = 0.0
        command = [*_UNSHARE, "sh", "-c", _SCRIPT, "sh", str(image.root), str(directory)]
        command += [str(self.run), "rw" if shared is None else "ro"]
        command += [f"{key}={value}" for key, value in self.environ.items()]
        # By its path: with the image's variables it is not found.
        command += [shutil.which("chroot") or "chroot", f"--userspec={user}:{group}"]
        command += [f"--groups={','.join(shared.groups if shared else ())}", str(directory / "root")]
        command += [*image.config["Entrypoint"], *arguments]
        with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
            self._process = _start(command, out, err)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it by force, if it still runs."""
        # The process that holds the namespaces takes process 1 along.
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return (self._directory / "out").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has said on standard error so far."""
        return (self._directory / "err").read_text(encoding="utf-8")

    def find_pid(self) -> int:
        """Return the machine's number of process 1, once it is the image's entry point.

        Raises:
            RuntimeError: it did not start.
        """
        name = self._image.config["Entrypoint"][0].encode()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError, ValueError, IndexError):
                children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
                pid = int(children.read_text().split()[0])
                if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] == name:
                    if not self.started:
                        self.started, self._cpu_before_s = time.monotonic(), _read_cpu_s(pid)
                    return pid
            time.sleep(_POLL_S)
        raise RuntimeError(f"the container did not start: {self.stderr}")

    def wait_until(self, is_so: Callable[[], bool], what: str) -> float:
        """Wait until something is so while it runs, and return the seconds since process 1 started.

        Raises:
            RuntimeError: it has ended, or the time is over.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not is_so():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no {what}: {self.stderr}")
            time.sleep(_POLL_S)
        return time.monotonic() - self.started

    def catches(self, number: signal.Signals) -> bool:
        """Tell whether process 1 has a handler of this signal."""
        return bool(int(self.read_status("SigCgt"), 16) >> (number - 1) & 1)

    def read_status(self, name: str) -> str:
        """Return a line of the kernel's status of process 1."""
        for line in Path(f"/proc/{self.find_pid()}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        raise KeyError(name)

    def read_cpu_s(self) -> float:
        """Return the CPU time of process 1, while it has one thread, since it started."""
        return _read_cpu_s(self.find_pid()) - self._cpu_before_s

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its user, and wait for the end."""
        user, _, group = self._image.config["User"].partition(":")
        enter = [shutil.which("nsenter") or "nsenter", f"--target={self.find_pid()}"]
        enter += ["--mount", "--pid", "--root", "--wd", f"--setuid={user}", f"--setgid={group}"]
        return subprocess.run(
            [*enter, *command],
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def check_health(self) -> int:
        """Return the exit status of the image's own health check."""
        kind, *command = self._image.config["Healthcheck"]["Test"]
        if kind != "CMD":
            raise RuntimeError(f"the health check needs a shell: {kind}")
        return self.execute(command).returncode

    def send_signal(self, number: int) -> None:
        """Send process 1 a signal."""
        os.kill(self.find_pid(), number)

    def wait(self, timeout_s: float = _END_TIMEOUT_S) -> int:
        """Wait for its end, and return the exit status.

        Raises:
            TimeoutExpired: it still runs.
        """
        return self._process.wait(timeout_s)


def can_connect(path: Path) -> bool:
    """Tell whether somebody listens at a path."""
    try:
        connect(str(path))
    except OSError:
        return False
    return True


def _read_cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _start(command: Sequence[str], out: IO[bytes], err: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
