"""Site-packages -> the same without what the daemon never reads. What is left imports and works as before.

The Datadog package alone has 48 MB of models, 95 with their compiled form, of which sending metrics imports a
fiftieth; botocore describes 400 services, and the daemon calls CloudWatch and those that give credentials;
most extension modules carry symbols for a debugger. Metadata stays, and each RECORD is written anew, so that
it says what is there.

Only the standard library is used, since it runs in the build stage.
"""

import base64
import csv
import hashlib
import io
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import rmtree

__all__ = ["list_unneeded", "prune", "rewrite_records", "strip_symbols"]

# What only a compiler or a type checker reads.
_SOURCE_SUFFIXES = frozenset({".c", ".h", ".pxd", ".pxi", ".pyi", ".pyx"})
_TEST_DIRECTORIES = frozenset({"test", "tests"})

# CloudWatch, and what the SDK asks for credentials: roles and web identities, IAM Identity Center, and
# `aws login` (botocore 1.43, credentials.py and tokens.py, read 2026-11).
_AWS_SERVICES = frozenset({"cloudwatch", "signin", "sso", "sso-oidc", "sts"})

# Examples of a service's use, and descriptions of calls that nobody makes.
_AWS_UNREAD = ("examples-", "paginators-", "waiters-")

# Typer shows code in no colours but Python's.
_LEXERS = frozenset({"__init__.py", "_mapping.py", "python.py", "special.py"})

# The sink's own client, built as the sink builds it, imports all that sending needs.
_DATADOG = """
import sys
from aiokpl_metricsd.sinks.datadog.client import Access, Client
Client(Access(url="https://api.datadoghq.com", api_key="none")).close()
for name, module in sys.modules.items():
    if name.partition(".")[0] == "datadog_api_client":
        print(module.__file__)
"""

# ELF-64, least significant byte first (System V ABI, "Object Files", read 2026-11): where the tables of
# segments and of sections are, and how many entries they have.
_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<32xQQ6xHHHHH")
_SEGMENT = struct.Struct("<8xQ16xQ16x")


def prune(site: Path, interpreter: str = sys.executable) -> int:
    """Remove what is not needed. Return how many bytes that were.

    Args:
        site: the directory of the packages, the daemon's own among them.
        interpreter: imports from there.

    Raises:
        CalledProcessError: the Datadog package is there and cannot be imported.
    """
    freed = 0
    for path in sorted(set(list_unneeded(site, interpreter))):
        freed += path.stat().st_size
        path.unlink()
    for path in sorted(site.rglob("*.so")):
        whole = path.read_bytes()
        stripped = strip_symbols(whole)
        if len(stripped) < len(whole):
            freed += len(whole) - len(stripped)
            # Anew, not in place: the file may have another name elsewhere.
            mode = path.stat().st_mode
            path.unlink()
            path.write_bytes(stripped)
            path.chmod(mode)
    for directory in sorted((each for each in site.rglob("*") if each.is_dir()), reverse=True):
        if directory.name == "__pycache__":
            rmtree(directory)
        elif not any(directory.iterdir()):
            directory.rmdir()
    rewrite_records(site)
    return freed


def list_unneeded(site: Path, interpreter: str = sys.executable) -> Iterator[Path]:
    """Yield the files that nothing reads.

    Raises:
        CalledProcessError: the Datadog package is there and cannot be imported.
    """
    for path in site.rglob("*"):
        inside = path.relative_to(site).parts[:-1]
        if path.is_file() and (
            path.suffix in _SOURCE_SUFFIXES
            or (inside and inside[0].endswith("-stubs"))
            or not _TEST_DIRECTORIES.isdisjoint(inside)
        ):
            yield path
    yield from _list_aws(site / "botocore" / "data")
    yield from _list_datadog(site / "datadog_api_client", interpreter)
    lexers = site / "pygments" / "lexers"
    yield from (each for each in lexers.glob("*.py") if each.name not in _LEXERS)


def strip_symbols(library: bytes) -> bytes:
    """Return a shared library without its symbols for debuggers, or as it was where that is not sure.

    What the loader reads is in segments. What lies behind the last one, symbols above all, is described by
    the table of sections, which lies there as well and which the loader does not read.
    """
    if not library.startswith(_ELF_64_LITTLE) or len(library) < _HEADER.size:
        return library
    segments, sections, entry_bytes, count, *_ = _HEADER.unpack_from(library)
    end = segments + count * entry_bytes
    if not sections or entry_bytes != _SEGMENT.size or end > len(library):
        return library
    for number in range(count):
        offset, file_bytes = _SEGMENT.unpack_from(library, segments + number * entry_bytes)
        end = max(end, offset + file_bytes)
    if end >= len(library):
        return library
    stripped = bytearray(library[:end])
    # No table of sections, and none of their names.
    struct.pack_into("<Q", stripped, 40, 0)
    struct.pack_into("<HHH", stripped, 58, 0, 0, 0)
    return bytes(stripped)


def rewrite_records(site: Path) -> None:
    """Let each distribution's list of files say what there is of it, and how it is now."""
    for record in site.glob("*.dist-info/RECORD"):
        with record.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        kept = io.StringIO()
        csv.writer(kept, lineterminator="\n").writerows(_describe(site, rows))
        # Anew, not in place: the file may have another name elsewhere.
        record.unlink()
        record.write_text(kept.getvalue(), encoding="utf-8")


def _list_aws(data: Path) -> Iterator[Path]:
    if not data.is_dir():
        return
    for service in data.iterdir():
        if service.is_dir():
            yield from (
                each
                for each in service.rglob("*")
                if each.is_file() and (service.name not in _AWS_SERVICES or each.name.startswith(_AWS_UNREAD))
            )


def _list_datadog(package: Path, interpreter: str) -> Iterator[Path]:
    if not package.is_dir():
        return
    done = subprocess.run([interpreter, "-c", _DATADOG], check=True, capture_output=True, text=True)
    loaded = {Path(line) for line in done.stdout.splitlines()}
    for version in ("v1", "v2"):
        yield from (each for each in (package / version).rglob("*.py") if each not in loaded)


def _describe(site: Path, rows: Iterable[list[str]]) -> Iterator[list[str]]:
    for name, digest, size in rows:
        path = site / name
        if not path.exists():
            # As pip lists what it compiles: without a hash.
            if path.suffix == ".py" and path.with_suffix(".pyc").exists():
                yield [f"{name}c", "", ""]
            continue
        if not digest or path.stat().st_size == int(size):
            yield [name, digest, size]
            continue
        content = path.read_bytes()
        found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        yield [name, f"sha256={found}", str(len(content))]
