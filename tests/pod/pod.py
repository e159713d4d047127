"""A pod made of namespaces: what a container runtime does for a sidecar, as far as a daemon can tell.

A pod has a network namespace, with nothing but a loopback, and volumes. A container has a mount namespace in
which everything but its volumes is read-only, a PID namespace in which its program is process 1, a user
without any right to write elsewhere, and perhaps a cgroup. It is started anew by whoever runs the scenario,
at once: the kubelet's own waiting, 10 s before a second restart, is left out.
"""

import compileall
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from msgspec import Struct

from tests.pod.cgroup import Limits
from tests.support.child import ROOT, Child
from tests.support.polling import TIMEOUT_S, wait_for

# As in deploy/kubernetes: the daemon's user and group, which is the volumes' too, and the service's user.
DAEMON_UID, SERVICE_UID, GROUP = 65532, 65533, 65532

RUN = Path("/run/aiokpl-metricsd")
STATE = Path("/run/state")
RESULTS = Path("/run/results")

# The silent backend of every pod: it takes connections and never says anything.
SILENT_PORT = 4317

# What the container's first process does before it becomes the program. A place of a volume exists in a
# directory of the container's own, which then takes the place of /run.
_ENTER = """
set -e
places=$1; shift
while [ "$1" != -- ]; do
    case $1 in
        cgroup) echo 0 > "$2"; shift 2 ;;
        volume) mkdir -p "$places/$3"; mount --bind "$2" "$places/$3"; shift 3 ;;
        frozen) mkdir -p "$places/$3"; mount --bind "$2" "$places/$3"
                mount -o remount,bind,ro "$places/$3"; shift 3 ;;
    esac
done
shift
mount --rbind "$places" /run
mount -o remount,bind,ro /
exec "$@"
"""

# A checkout that only root may read is read all the same; nothing may be written by that.
_CAPABILITIES = "-all,+dac_read_search"


class Volume(Struct, frozen=True):
    """An emptyDir.

    Attributes:
        path: as the pod sees it.
        seen: as the test sees it.
    """

    path: Path
    seen: Path


class Container(Child):
    """A process that is number 1 of its own; `pid` is its number outside."""

    def __init__(
        self, command: Sequence[str], directory: Path, name: str, environ: Mapping[str, str]
    ) -> None:
        super().__init__(command, directory, name, environ)
        self._inner_pid: int | None = None

    @property
    def pid(self) -> int:
        """The number of its process 1, as the test sees it."""
        if self._inner_pid is None:
            outer = super().pid
            self._inner_pid = wait_for(lambda: _find_child(outer) or not self.is_running(), "the container")
            assert self.is_running(), self.stderr
        return self._inner_pid

    def send_signal(self, number: int) -> None:
        """Send its process 1 a signal, as a kubelet does."""
        os.kill(self.pid, number)

    def end(self) -> None:
        """End it by force, if it still runs."""
        # --kill-child is forgotten when the child becomes another user.
        if self.is_running():
            with suppress(AssertionError, ProcessLookupError):
                self.send_signal(signal.SIGKILL)
                self.wait()
        super().end()


class Pod:
    """Volumes, a network, and the containers that are started in them.

    Attributes:
        directory: of the test's side: what containers print, and their configuration.
        run: the socket's volume, in memory.
        state: the volume of `state_dir`, on disk.
        results: takes what scenarios look at; no pod has it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o755)
        self._containers: list[Container] = []
        command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.pod.pause", str(directory)]
        self._pause = Child([*command, str(SILENT_PORT), str(GROUP)], directory, "pause")
        self.run, self.state, self.results = (self._find_volume(name) for name in ("run", "state", "results"))

    def wait_until_there(self) -> None:
        """Return when the volumes and the network are there."""
        wait_for(lambda: self._pause.stdout or not self._pause.is_running(), "the pod")
        assert self._pause.is_running(), self._pause.stderr

    def _find_volume(self, name: str) -> Volume:
        path = self.directory / name
        # The socket's volume is mounted in the pod's namespace alone.
        return Volume(path, Path(f"/proc/{self._pause.pid}/root{path}"))

    def start_daemon(
        self, config: Path, *, environ: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> Container:
        """Start the sidecar."""
        command = [sys.executable, "-m", "aiokpl_metricsd", "--config", str(config), "--log-format", "json"]
        volumes = {RUN: self.run, STATE: self.state, RESULTS: self.results}
        return self.start("daemon", DAEMON_UID, command, volumes, environ or {}, limits)

    def start_service(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Container:
        """Start the application: `tests.pod.service`. It finds the socket by itself, in a read-only mount."""
        command = [sys.executable, "-m", "tests.pod.service", str(RESULTS / self.notes_name()), *arguments]
        volumes = {RUN: self.run, RESULTS: self.results}
        return self.start("service", SERVICE_UID, command, volumes, environ or {}, None)

    def notes_name(self) -> str:
        """Return the name of the next service's notes."""
        return f"service-{len(list(self.directory.glob('*-service.err')))}.notes"

    def start(
        self,
        what: str,
        uid: int,
        command: Sequence[str],
        volumes: Mapping[Path, Volume],
        environ: Mapping[str, str],
        limits: Limits | None,
    ) -> Container:
        """Start a container.

        Args:
            what: the last part of its name.
            uid: of its user and of that one's own group; the volumes' group is another of its groups.
            command: what becomes its process 1.
            volumes: by where they are mounted, below /run.
            environ: variables to add.
            limits: cgroups that it enters before anything else.
        """
        name = f"{len(self._containers)}-{what}"
        places = self.directory / f"{name}.run"
        places.mkdir()
        mounts: list[str] = []
        for place, volume in volumes.items():
            kind = "frozen" if place == RUN and uid != DAEMON_UID else "volume"
            mounts += [kind, str(volume.path), str(place.relative_to("/run"))]
        groups = (
            [] if limits is None else [word for path in limits.processes for word in ("cgroup", str(path))]
        )
        namespaces = ["nsenter", f"--target={self._pause.pid}", "--mount", "--net", "unshare", "--mount"]
        namespaces += ["--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private"]
        entering = ["sh", "-c", _ENTER, "sh", str(places), *groups, *mounts, "--"]
        path = os.pathsep.join([str(ROOT), *([environ["PYTHONPATH"]] if "PYTHONPATH" in environ else [])])
        container = Container(
            [*namespaces, *entering, *_become(uid), *command],
            self.directory,
            name,
            {**environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self._containers.append(container)
        return container

    def probe(self, container: Container, uid: int, command: Sequence[str]) -> int:
        """Run a command in a container, as the kubelet does for a probe, and return its exit status."""
        inside = ["nsenter", f"--target={container.pid}", "--mount", "--net", "--pid"]
        done = subprocess.run(
            [*inside, *_become(uid), *command], capture_output=True, check=False, timeout=TIMEOUT_S
        )
        return done.returncode

    def end(self) -> None:
        """End what still runs; the volumes in memory go with it."""
        for container in self._containers:
            container.end()
        self._pause.end()


def _become(uid: int) -> list[str]:
    """Return what starts a command as a container's user."""
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={GROUP}", "--no-new-privs"]
    user += [f"--{kind}={_CAPABILITIES}" for kind in ("bounding-set", "inh-caps", "ambient-caps")]
    return [*user, "--"]


def _find_child(parent: int) -> int:
    """Return the number of a process's only child, or 0."""
    for process in Path("/proc").glob("[0-9]*"):
        # It may have ended meanwhile.
        with suppress(OSError):
            # After the name, which may contain anything: state and parent.
            fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[1]) == parent:
                return int(process.name)
    return 0


@contextmanager
def open_pod() -> Generator[Pod]:
    """Make a pod, for as long as the context lasts; skip the test where there can be none."""
    _compile()
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except FileNotFoundError:
        pytest.skip("there is no unshare: a pod is made of namespaces")
    if done.returncode:
        pytest.skip(f"namespaces may not be made here, root may: {done.stderr.strip()}")
    with tempfile.TemporaryDirectory(prefix="pod-") as path:
        pod = Pod(Path(path))
        try:
            pod.wait_until_there()
            yield pod
        finally:
            pod.end()


@cache
def _compile() -> None:
    """Have the bytecode that an image has: no container can write it."""
    for name in ("protocol", "client", "daemon"):
        compileall.compile_dir(ROOT / name / "src", quiet=1)


__all__ = [
    "DAEMON_UID",
    "GROUP",
    "RESULTS",
    "RUN",
    "SERVICE_UID",
    "SILENT_PORT",
    "STATE",
    "Container",
    "Pod",
    "Volume",
    "open_pod",
]
