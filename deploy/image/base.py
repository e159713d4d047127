"""debootstrap -> a base image, in place of the registry's: Debian with Python and pip, like python:3.x-slim.

It is made in memory, in a mount namespace that ends with it, so that nothing is left behind when it is
interrupted.
"""

import subprocess
import tempfile
from pathlib import Path

from deploy.image.engine import Engine

__all__ = ["BASE_IMAGE", "make_base"]

BASE_IMAGE = "localhost/debian-python:12"

_SUITE = "bookworm"
_PACKAGES = "python3,python3-pip,ca-certificates"

_SCRIPT = """
set -eu
mount -t tmpfs tmpfs "$1"
debootstrap --variant=minbase --include="$2" "$3" "$1/root" >"$4/debootstrap.log" 2>&1 || {
    tail -n 5 "$4/debootstrap.log" >&2
    exit 1
}
rm -rf "$1"/root/var/cache/apt/archives/*.deb "$1"/root/var/lib/apt/lists/*
tar --one-file-system -C "$1/root" --exclude=./proc/* --exclude=./sys/* -cf "$4/base.tar" .
"""

_DOCKERFILE = """
FROM scratch
ADD base.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


def make_base(engine: Engine) -> str:
    """Make the base unless it is there. Return its name. Takes a minute or three, and the network.

    Raises:
        CalledProcessError: it cannot be made; the reason was printed.
    """
    if engine.has(BASE_IMAGE):
        return BASE_IMAGE
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as mount:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, "sh"]
        subprocess.run([*command, mount, _PACKAGES, _SUITE, directory], check=True)
        file = Path(directory, "Dockerfile")
        file.write_text(_DOCKERFILE, encoding="utf-8")
        engine.build(Path(directory), BASE_IMAGE, file=file, arguments={})
    return BASE_IMAGE
