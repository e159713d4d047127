import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiokpl_metricsd.sinks import importing
from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink
from aiokpl_metricsd.sinks.datadog.sink import DatadogSink
from aiokpl_metricsd.sinks.importing import import_alone
from aiokpl_metricsd.sinks.otlp.sink import OtlpSink
from tests.support.cloudwatch_stub import isolate

# How long a module waits for another thread to come to the one that it imports: that one may not come.
_MEETING_S = 0.2

_FILES = {
    "__init__.py": "import ring.left\n",
    "left.py": "import meeting\nvalue = 1\nmeeting.wait()\nfrom ring.right import other\n",
    "right.py": "from ring.left import value\nother = 2\n",
}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[threading.Event]:
    """A package whose modules import each other; set when the first of them is half imported."""
    begun = threading.Event()
    blocked: Any = import_module("_frozen_importlib")._blocking_on

    def wait() -> None:
        begun.set()
        deadline = time.monotonic() + _MEETING_S
        while not blocked and time.monotonic() < deadline:
            time.sleep(0.001)

    meeting = ModuleType("meeting")
    meeting.__dict__["wait"] = wait
    monkeypatch.setitem(sys.modules, "meeting", meeting)
    (tmp_path / "ring").mkdir()
    for name, text in _FILES.items():
        (tmp_path / "ring" / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield begun
    for name in ("ring.left", "ring.right", "ring"):
        sys.modules.pop(name, None)


def _import_from_both_sides(
    begun: threading.Event, load: Callable[[Callable[[], object]], object]
) -> list[bool]:
    """Have two threads import the package, the second of them its second module; return whether each did."""

    def come(name: str, *, first: bool) -> bool:
        if not first:
            begun.wait(5)
        try:
            load(partial(import_module, name))
        except (ImportError, RuntimeError, KeyError):
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        sides = [
            threads.submit(come, "ring", first=True),
            threads.submit(come, "ring.right", first=False),
        ]
        return [side.result(10) for side in sides]


def test_two_threads_import_modules_that_import_each_other(begun: threading.Event) -> None:
    assert _import_from_both_sides(begun, import_alone) == [True, True]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the interpreter no longer shows who waits")
def test_without_it_they_fail(begun: threading.Event) -> None:
    assert False in _import_from_both_sides(begun, lambda do: do())


@pytest.mark.parametrize(
    "sink",
    [
        CloudWatchSink(region="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"),
        OtlpSink(endpoint="http://127.0.0.1:4317", protocol="grpc"),
        OtlpSink(endpoint="http://127.0.0.1:4318", protocol="http/protobuf"),
        DatadogSink(api_key="k", host="h"),
    ],
    ids=["cloudwatch", "grpc", "http", "datadog"],
)
def test_sinks_import_their_packages_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sink: CloudWatchSink | OtlpSink | DatadogSink
) -> None:
    isolate(monkeypatch, tmp_path)
    entered: list[int] = []

    class Lock:
        def __enter__(self) -> None:
            entered.append(threading.get_ident())

        def __exit__(self, *_: object) -> None:
            return

    monkeypatch.setattr(importing, "_lock", Lock())
    asyncio.run(sink.check())
    assert entered
    assert threading.get_ident() not in entered


def test_who_imports_may_call_somebody_who_does_so_too() -> None:
    assert import_alone(lambda: import_alone(lambda: "inner")) == "inner"


def test_it_is_free_again_after_a_failure() -> None:
    def fail() -> None:
        raise ModuleNotFoundError("no module of that name", name="acme")

    with pytest.raises(ModuleNotFoundError):
        import_alone(fail)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(import_alone, lambda: "free").result(5) == "free"
