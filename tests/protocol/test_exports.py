"""The package exports what it says, no more and no less, and brings nothing along but msgspec."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

import aiokpl_metrics_protocol

SOURCE = Path(aiokpl_metrics_protocol.__file__).parent.parent
MODULES = [
    importlib.import_module(f"aiokpl_metrics_protocol.{found.name}")
    for found in pkgutil.iter_modules(aiokpl_metrics_protocol.__path__)
]

# Public in their own module, where the two that need them import them from.
KEPT_IN_THEIR_MODULE = {"ENVIRONMENT_VARIABLE", "MAX_PATH_BYTES", "SOCKET_NAME", "Number"}

PROMISED = {
    *("encode", "decode", "encode_series", "decode_series", "check_series", "socket_candidates"),
    *("ProtocolError", "FrameTooLargeError", "MalformedFrameError", "NestingError", "TextError"),
    *("UnknownTagError", "WrongTypeError", "Reason"),
    *("MetricEvent", "MetricKind", "MetricsLevel", "CATALOG", "Description", "Series"),
    *("EventsFrame", "ColumnsFrame", "FoldedFrame", "HelloFrame", "AckFrame", "Frame"),
    *("Column", "Folded", "Buckets", "Totals", "WIRE_VERSION", "MAX_DATAGRAM_BYTES"),
}

# Modules of the standard library that a producer would have to pay for, and that the protocol has no use for.
UNWANTED = (
    "asyncio",
    "concurrent.futures",
    "json",
    "logging",
    "socket",
    "ssl",
    "typing_extensions",
    "urllib",
)

every_module = pytest.mark.parametrize("module", MODULES, ids=[module.__name__ for module in MODULES])


def test_the_package_exports_what_was_promised() -> None:
    exported = set(aiokpl_metrics_protocol.__all__)
    assert exported >= PROMISED
    assert len(exported) == len(aiokpl_metrics_protocol.__all__)


def test_every_export_is_there_and_every_public_name_is_exported() -> None:
    public = {
        name
        for name, value in vars(aiokpl_metrics_protocol).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(aiokpl_metrics_protocol.__all__)


@every_module
def test_every_module_says_what_it_is_and_what_it_exports(module: ModuleType) -> None:
    assert module.__doc__
    assert set(module.__all__) <= set(vars(module))
    assert set(module.__all__) <= set(aiokpl_metrics_protocol.__all__) | KEPT_IN_THEIR_MODULE


@every_module
def test_every_class_and_function_is_documented_and_not_private_to_another_module(module: ModuleType) -> None:
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            assert value.__module__ == module.__name__, name


def test_what_each_name_is_does_not_depend_on_where_it_is_imported_from() -> None:
    for module in MODULES:
        for name in set(module.__all__) - KEPT_IN_THEIR_MODULE:
            assert getattr(aiokpl_metrics_protocol, name) is getattr(module, name)


def test_a_fresh_interpreter_loads_nothing_for_the_package_but_msgspec_math_and_what_they_need() -> None:
    # `math` is in C, and on some Pythons msgspec itself brings it along.
    with_msgspec = _list_modules(
        "import msgspec, msgspec.msgpack, msgspec.structs, collections.abc, typing, enum, math"
    )
    with_protocol = _list_modules("import aiokpl_metrics_protocol")
    brought = {
        name for name in with_protocol - with_msgspec if not name.startswith("aiokpl_metrics_protocol")
    }
    assert brought == set()
    assert "aiokpl_metrics_protocol.codec" in with_protocol


@pytest.mark.parametrize("name", UNWANTED)
def test_a_fresh_interpreter_does_not_load_what_the_protocol_has_no_use_for(name: str) -> None:
    if name in _list_modules("import msgspec"):
        pytest.skip("msgspec itself loads it here")
    assert name not in _list_modules("import aiokpl_metrics_protocol")


def _list_modules(statement: str) -> set[str]:
    """Return the modules that are loaded in a fresh interpreter after a statement."""
    paths = [str(SOURCE), str(Path(msgspec.__file__).parent.parent)]
    finished = subprocess.run(
        # Without site: an editable install's own hooks load modules too.
        [sys.executable, "-S", "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(finished.stdout.split())
