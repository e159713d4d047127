"""Dockerfile -> image, by buildah, without an engine or a registry; image -> directory and configuration.

Images are kept in a store of our own, so that neither the machine's are touched nor ours are lost among them.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from ast import literal_eval
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

__all__ = ["Engine", "Image", "find_missing_tools", "read_pip_settings", "write_secrets"]

TOOLS = ("buildah", "debootstrap")

# What says where packages come from, and whom to trust; everything else of pip's is for the machine alone.
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "cert")
_CERTIFICATE = "/run/secrets/pip.crt"


class Image(NamedTuple):
    """An image that is mounted.

    Attributes:
        root: its file system; not to be written to.
        config: what it says of itself: Entrypoint, Env, User, Healthcheck, Labels, StopSignal.
    """

    root: Path
    config: dict[str, Any]


class Engine:
    """Builds and mounts.

    Args:
        store: the directory of its images.
    """

    def __init__(self, store: Path) -> None:
        """Take overlays where the store can have them: else every step copies the whole image."""
        store.mkdir(parents=True, exist_ok=True)
        self._command = ["buildah"]
        # What does not outlive the machine; two stores must not share it.
        run = Path(tempfile.gettempdir(), f"aiokpl-metricsd-image-{crc32(bytes(store.resolve())):08x}")
        for driver in ("overlay", "vfs"):
            self._command = [
                *("buildah", "--root", str(store / driver), "--runroot", str(run / driver)),
                f"--storage-driver={driver}",
            ]
            if subprocess.run([*self._command, "images"], capture_output=True, check=False).returncode == 0:
                return
        raise RuntimeError("buildah can keep no image here, neither in overlays nor in directories")

    def has(self, name: str) -> bool:
        """Tell whether there is an image of this name."""
        command = [*self._command, "inspect", "--type", "image", name]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def build(
        self, context: Path, name: str, *, file: Path, arguments: Mapping[str, str], pull: bool = False
    ) -> None:
        """Build an image. What the machine's pip is told reaches the build, and nothing of it the image.

        Raises:
            CalledProcessError: it cannot be built; the reason was printed.
        """
        with tempfile.TemporaryDirectory() as directory:
            secrets = write_secrets(read_pip_settings(), Path(directory))
            options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
            options += [f"--secret=id={key},src={path}" for key, path in secrets.items()]
            self._run(
                *("bud", "--pull" if pull else "--pull-never", "--isolation=chroot", "--format=docker"),
                # Kept steps make the next build quick.
                *("--layers", "--quiet", *options, f"--tag={name}", f"--file={file}", str(context)),
            )

    @contextmanager
    def mount(self, name: str) -> Generator[Image]:
        """Mount an image while it is entered."""
        described = json.loads(self._read("inspect", "--type", "image", name))
        container = self._read("from", "--pull-never", name)
        try:
            yield Image(Path(self._read("mount", container)), described["Docker"]["config"])
        finally:
            self._read("rm", container)

    def measure_bytes(self, name: str) -> int:
        """Return the size of an image's layers, not compressed, as an engine lists it."""
        described = json.loads(self._read("images", "--json", name))
        return round(_read_size(described[0]["size"]))

    def _run(self, *arguments: str) -> None:
        subprocess.run([*self._command, *arguments], check=True, stdout=subprocess.DEVNULL)

    def _read(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()


def find_missing_tools() -> list[str]:
    """Return which of the programs are not there."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def read_pip_settings() -> dict[str, str]:
    """Return what the machine's pip is told of where packages come from."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    settings: dict[str, str] = {}
    # Later sources win, and the environment is the last one.
    for line in sorted(lines, key=lambda each: each.startswith(":env:")):
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in _PIP_SETTINGS:
            settings[name] = str(literal_eval(value))
    return settings


def write_secrets(settings: Mapping[str, str], directory: Path) -> dict[str, Path]:
    """Write them as the files that the Dockerfile takes as secrets. Return those by their names."""
    secrets: dict[str, Path] = {}
    settings = dict(settings)
    if "cert" in settings:
        secrets["pip.crt"] = Path(settings["cert"])
        settings["cert"] = _CERTIFICATE
    if settings:
        secrets["pip.conf"] = directory / "pip.conf"
        lines = [f"{key} = {value}".replace("\n", "\n    ") for key, value in settings.items()]
        secrets["pip.conf"].write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
    return secrets


def _read_size(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()]
