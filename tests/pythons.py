"""Every Python from 3.10 on that is installed -> the tests of the client and of the protocol, run by it.

The wheels are installed, as a producer installs them, into an environment of that Python's own, without the
daemon, which wants a newer one. `python -m tests.pythons` says which interpreters there were.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.child import ROOT
from tests.support.wheels import build_wheels

VERSIONS = tuple(f"3.{minor}" for minor in range(10, 15))

ENVIRONMENTS = ROOT / ".venv" / "pythons"

# What the tests need beside the wheels; at the versions of dev.txt, where it has them.
PACKAGES = ("msgspec", "pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "msgpack", "trio")
PINNED = (*PACKAGES, "anyio", "attrs", "exceptiongroup", "idna", "outcome", "pluggy", "sniffio", "tomli")

# Run slowly, and say the same on each Python: other programs (compilers, type checkers) are what they run.
LEFT_OUT = ("tests/client/test_typing.py", "tests/client/test_wheel.py")
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


def prepare(version: str, interpreter: Path, wheels: Sequence[Path]) -> Path:
    """Return the Python of an environment that has the wheels, made anew where it is not there."""
    directory = ENVIRONMENTS / version
    python = directory / "bin" / "python"
    # Written last, so that an environment whose making was broken off is made anew.
    stamp = directory / "installed"
    if not stamp.exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", directory], check=True)
        pins = directory / "pins.txt"
        pins.write_text("\n".join(read_pins(version)), encoding="utf-8")
        _install(python, "-c", str(pins), *PACKAGES)
        stamp.touch()
    _install(python, "--no-deps", "--force-reinstall", *map(str, wheels))
    return python


def read_pins(version: str) -> list[str]:
    """Return the versions in dev.txt of what the tests need; it is compiled for Python 3.11 and later."""
    if version == VERSIONS[0]:
        return []
    text = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE)
    return [f"{name}=={pinned}" for name, pinned in found if name in PINNED]


def run_tests(python: Path, arguments: Sequence[str]) -> int:
    """Run the tests, and return their exit status."""
    deselected = [f"--ignore={path}" for path in LEFT_OUT]
    deselected += [f"--deselect={test}" for test in LEFT_OUT_TESTS]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *deselected, *arguments]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "tests/client", "tests/protocol"],
        cwd=ROOT,
        env=environ,
        check=False,
        timeout=SECONDS_A_RUN,
    )
    return done.returncode


def main(arguments: Sequence[str]) -> int:
    """Run them all; return 0 if each one passed."""
    interpreters = dict(find_interpreters())
    missing = [version for version in VERSIONS if version not in interpreters]
    print(f"== interpreters: {', '.join(interpreters) or 'none'}; not here: {', '.join(missing) or 'none'}")
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        wheels = build_wheels(Path(directory))
        for version, interpreter in interpreters.items():
            print(f"== Python {version}", flush=True)
            try:
                status = run_tests(prepare(version, interpreter, wheels), arguments)
            except subprocess.SubprocessError as error:
                print(error)
                status = 1
            if status:
                failed.append(version)
    print(f"== failed: {', '.join(failed) or 'none'}")
    return 1 if failed or not interpreters else 0


def _is_version(interpreter: Path, version: str) -> bool:
    # A shim of pyenv is there whether or not its version is switched on.
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == version


def _install(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


__all__ = ["ENVIRONMENTS", "VERSIONS", "find_interpreters", "main", "prepare", "read_pins", "run_tests"]
