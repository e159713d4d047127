"""A process of a test: its output in files, so that no pipe can fill up, and its end certain."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.polling import TIMEOUT_S

ROOT = Path(__file__).parents[2]


class Child:
    """A running process, started when it is made.

    Args:
        command: the program and its arguments.
        directory: where the files of its output go.
        name: of those files; unique in the directory.
        environ: variables to add to the test's own; those of the product are not inherited.
        pass_fds: descriptors that it inherits, under the same numbers.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        name: str,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._stdout = directory / f"{name}.out"
        self._stderr = directory / f"{name}.err"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=ROOT,
                env=build_environment(environ or {}),
                # A Ctrl-C at the terminal of the tests is not for it.
                start_new_session=True,
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._stdout.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has said on standard error so far."""
        return self._stderr.read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._process.poll()

    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self.poll() is None

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for its end and return its exit status.

        Raises:
            AssertionError: it still runs.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout_s:g} s; standard error: {self.stderr}") from None

    def end(self) -> None:
        """End it by force, if it still runs."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(TIMEOUT_S)


class Nursery:
    """Starts processes, and ends at the latest with the test whatever still runs of them.

    Attributes:
        directory: of the test: short, so that a socket fits in it, and removed afterwards.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[Child] = []

    def start(
        self, command: Sequence[str], name: str | None = None, environ: Mapping[str, str] | None = None
    ) -> Child:
        """Start a program."""
        name = f"child-{len(self._children)}" if name is None else name
        return self.adopt(Child(command, self.directory, name, environ))

    def start_python(
        self, *arguments: str, name: str | None = None, environ: Mapping[str, str] | None = None
    ) -> Child:
        """Start this interpreter."""
        return self.start([sys.executable, *arguments], name, environ)

    def adopt(self, child: Child) -> Child:
        """End this one, too."""
        self._children.append(child)
        return child

    def end(self) -> None:
        """End what still runs."""
        for child in self._children:
            child.end()


def add_import_path(directory: Path) -> dict[str, str]:
    """Return the variable with which a child finds the modules of a directory, too."""
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(directory), *([inherited] if inherited else [])])}


def build_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: the test's own without the product's variables, and `extra`."""
    own = {
        key: value for key, value in os.environ.items() if not key.startswith(("AIOKPL_", "AWS_", "MOTO_"))
    }
    return {**own, **extra}


__all__ = ["ROOT", "Child", "Nursery", "add_import_path", "build_environment"]
