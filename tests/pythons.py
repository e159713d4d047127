"""Every Python from 3.10 on that is installed -> the tests of the client and of the protocol, run by it.

The wheels are installed, as a producer installs them, into an environment of that Python's own, without the
daemon, which wants a newer one. `python -m tests.pythons prepare` makes the environments, the only step that
fetches anything; `python -m tests.pythons` runs all tests and says which interpreters there were, and
`tests/client/test_pythons.py` the quick ones.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.child import ROOT
from tests.support.wheels import build_wheels

VERSIONS = tuple(f"3.{minor}" for minor in range(10, 15))

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

ENVIRONMENTS = ROOT / ".venv" / "pythons"

# What the tests need beside the wheels; at the versions of dev.txt, where it has them.
PACKAGES = ("msgspec", "pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "msgpack", "trio")
PINNED = (*PACKAGES, "anyio", "attrs", "exceptiongroup", "idna", "outcome", "pluggy", "sniffio", "tomli")

# Run slowly, and say the same on each Python: other programs (compilers, type checkers) are what they run. Or
# they run all of this.
LEFT_OUT = ("tests/client/test_typing.py", "tests/client/test_wheel.py", "tests/client/test_pythons.py")
LEFT_OUT_TESTS = (
    "tests/protocol/test_documentation.py::test_what_the_producer_in_go_sends_decodes_to_its_event",
)

SECONDS_A_RUN = 500


def find_interpreters() -> Iterator[tuple[str, Path]]:
    """Yield each version of which there is an interpreter, on PATH or of pyenv, with its path."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        found = shutil.which(f"python{version}")
        candidates = sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)
        candidates += [] if found is None else [Path(found)]
        for candidate in candidates:
            if _is_version(candidate, version):
                yield version, candidate
                break


def prepare(version: str, interpreter: Path) -> None:
    """Make the environment of a Python, with what the tests need beside the wheels, where it is not there."""
    directory = ENVIRONMENTS / version
    pins = "\n".join(read_pins(version))
    # Written last, so that an environment whose making was broken off is made anew.
    stamp = directory / "installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == pins:
        return
    # With our own pip: to have one in each takes as long as all the rest.
    subprocess.run([interpreter, "-m", "venv", "--clear", "--without-pip", directory], check=True)
    (directory / "pins.txt").write_text(pins, encoding="utf-8")
    _install(find_python(version), "--no-compile", "-c", str(directory / "pins.txt"), *PACKAGES)
    stamp.write_text(pins, encoding="utf-8")


def find_python(version: str) -> Path:
    """Return where the Python of a version's environment is, if that is made."""
    return ENVIRONMENTS / version / "bin" / "python"


def is_prepared(version: str) -> bool:
    """Tell whether its environment is made."""
    return (ENVIRONMENTS / version / "installed").exists()


def read_pins(version: str) -> list[str]:
    """Return the versions in dev.txt of what the tests need; it is compiled for Python 3.11 and later."""
    if version == VERSIONS[0]:
        return []
    text = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE)
    return [f"{name}=={pinned}" for name, pinned in found if name in PINNED]


def build_command(version: str, wheels: Sequence[Path], arguments: Sequence[str]) -> list[str]:
    """Install the wheels into a version's environment, and return the command that runs the tests there."""
    python = find_python(version)
    _install(python, "--no-index", "--no-deps", "--force-reinstall", *map(str, wheels))
    left_out = [f"--ignore={path}" for path in LEFT_OUT]
    left_out += [f"--deselect={test}" for test in LEFT_OUT_TESTS]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *left_out, *arguments]
    return [*command, "tests/client", "tests/protocol"]


def build_environment() -> dict[str, str]:
    """Return the variables of a run: without what would lead it to other modules or another run's options."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "PYTEST_"))}


def prepare_all(*, but: str | None = None) -> dict[str, Path]:
    """Make the environment of each interpreter there is, `but` of this version, and return these."""
    interpreters = dict(find_interpreters())
    missing = [version for version in VERSIONS if version not in interpreters]
    print(f"== interpreters: {', '.join(interpreters) or 'none'}; not here: {', '.join(missing) or 'none'}")
    if but is not None:
        interpreters.pop(but, None)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(prepare, interpreters, interpreters.values()))
    return interpreters


def run_all(arguments: Sequence[str]) -> int:
    """Run the tests under each of them; return 0 if each one passed."""
    interpreters = prepare_all()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        wheels = build_wheels(Path(directory))
        for version in interpreters:
            print(f"== Python {version}", flush=True)
            command, environ = build_command(version, wheels, arguments), build_environment()
            try:
                subprocess.run(command, cwd=ROOT, env=environ, check=True, timeout=SECONDS_A_RUN)
            except subprocess.SubprocessError as error:
                print(error)
                failed.append(version)
    print(f"== failed: {', '.join(failed) or 'none'}")
    return 1 if failed or not interpreters else 0


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says."""
    if arguments == ["prepare"]:
        # Under this one all tests run anyway.
        prepare_all(but=RUNNING)
        return 0
    return run_all(arguments)


def _is_version(interpreter: Path, version: str) -> bool:
    # A shim of pyenv is there whether or not its version is switched on.
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == version


def _install(python: Path, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


__all__ = [
    "ENVIRONMENTS",
    "RUNNING",
    "SECONDS_A_RUN",
    "VERSIONS",
    "build_command",
    "build_environment",
    "find_interpreters",
    "find_python",
    "is_prepared",
    "main",
    "prepare",
    "prepare_all",
    "read_pins",
    "run_all",
]
