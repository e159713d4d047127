"""Base image -> final stage: what the daemon needs of it is made ready, and what could install is removed.

Run by the environment's interpreter as root, at last and without a shell, so that a base may have none. It
fails where the base's Python is not the one that the environment was made for.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from py_compile import PycInvalidationMode
from py_compile import compile as compile_file
from shutil import rmtree

__all__ = ["compile_library", "import_everything", "list_installers", "main", "make_directories"]

USER = 65532

# The socket's directory hands its group down to the socket; the state is the daemon's alone.
DIRECTORIES = {"/run/aiokpl-metricsd": 0o2750, "/var/lib/aiokpl-metricsd": 0o700}
# Where the file is mounted: on a read-only file system nobody makes it later.
CONFIGURATION = Path("/etc/aiokpl-metricsd")

# What the sinks import when they are opened.
_FOREIGN = (
    "aiobotocore.config",
    "aiobotocore.session",
    "aiohttp.web",
    "datadog_api_client.v1.api.metrics_api",
    "datadog_api_client.v2.api.metrics_api",
    "grpc.aio",
    "opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc",
    "opentelemetry.sdk.metrics.export",
)
# What an extra brings, and so may not be there.
_OPTIONAL = frozenset(name.partition(".")[0] for name in _FOREIGN)
_INSTALLERS = (
    "_distutils_hack",
    "distutils-precedence.pth",
    "pip",
    "pip-*",
    "pkg_resources",
    "setuptools",
    "setuptools-*",
    "wheel",
    "wheel-*",
)


def main() -> None:
    """Finish the image."""
    # It would be compared with dates that an image may not keep.
    sys.dont_write_bytecode = True
    import_everything()
    print(f"compiled {compile_library()} modules of the standard library")
    for path in list_installers(sys.base_prefix):
        if path.is_dir():
            rmtree(path)
        else:
            path.unlink()
    make_directories(DIRECTORIES, USER)
    CONFIGURATION.mkdir(exist_ok=True)
    Path(__file__).unlink()


def import_everything() -> None:
    """Import whatever the daemon may import, as far as the extras were chosen.

    Raises:
        ImportError: something is missing that no extra brings, or is not for this Python.
    """
    import aiokpl_metricsd

    package = Path(aiokpl_metricsd.__file__).parent
    names = ["uvloop", *_FOREIGN]
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        # The kit for tests needs pytest, and __main__ takes the signals.
        if parts[1] != "testing" and parts[-1] != "__main__":
            names.append(".".join(parts).removesuffix(".__init__"))
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _OPTIONAL:
                raise


def compile_library() -> int:
    """Compile what is imported of the standard library, where the base has sources alone. Return how many."""
    count = 0
    for module in list(sys.modules.values()):
        source, compiled = getattr(module, "__file__", None), getattr(module, "__cached__", None)
        if source and compiled and source.endswith(".py") and not Path(compiled).exists():
            compile_file(source, compiled, doraise=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
            count += 1
    return count


def list_installers(prefix: str) -> Iterator[Path]:
    """Yield what the base has to install packages with."""
    places = {
        sysconfig.get_path("purelib", "posix_prefix", {"base": prefix}),
        # Debian's.
        f"{prefix}/lib/python3/dist-packages",
    }
    for place in sorted(places):
        for name in _INSTALLERS:
            yield from Path(place).glob(name)
    library = sysconfig.get_path("stdlib", "posix_prefix", {"installed_base": prefix})
    yield from Path(library).glob("ensurepip")
    # Debian's, of the package python3-pip-whl.
    yield from Path(prefix, "share").glob("python-wheels")
    for name in ("pip", "pip3", "pip3.*", "pip-3*", "wheel"):
        yield from Path(prefix, "bin").glob(name)


def make_directories(directories: dict[str, int], user: int) -> None:
    """Make the daemon's directories, which a new volume takes owner and mode from."""
    for name, mode in directories.items():
        path = Path(name)
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, user, user)
        # After the owner, whose change may clear the bit.
        path.chmod(mode)


if __name__ == "__main__":
    main()
