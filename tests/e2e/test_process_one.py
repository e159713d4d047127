"""The daemon as process 1 of a PID namespace, as in a container: SIGTERM ends it from its first statement on.

There the kernel drops what has no handler, so a signal that comes before it is not late but lost.
"""

import ast
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import aiokpl_metricsd
from tests.support.child import Child, Nursery
from tests.support.daemon import DaemonProcess
from tests.support.halting import halt_import
from tests.support.polling import wait_for

ISOLATE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

PACKAGE = Path(aiokpl_metricsd.__file__).parent


def can_isolate() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*ISOLATE, "true"], capture_output=True, check=False).returncode == 0
    )


needs_namespaces = pytest.mark.skipif(not can_isolate(), reason="PID namespaces are root's, and need unshare")


def test_nothing_is_imported_or_done_before_the_handlers() -> None:
    docstring, *imports, handlers = ast.parse((PACKAGE / "__main__.py").read_text(encoding="utf-8")).body[:4]
    assert isinstance(docstring, ast.Expr)
    # Both are there before Python runs its first line of ours: they cost nothing.
    assert [ast.unparse(each) for each in imports] == ["import os", "import signal"]
    assert isinstance(handlers, ast.For)
    assert ast.unparse(handlers.iter) == "(signal.SIGTERM, signal.SIGINT)"
    # Imported first by `python -m`.
    package = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    assert not [node for node in package if isinstance(node, (ast.Import, ast.ImportFrom))]


@needs_namespaces
@pytest.mark.parametrize(
    "module",
    [
        "aiokpl_metricsd.process",
        "msgspec",
        "tomllib",
        "aiokpl_metricsd.listener",
        "asyncio",
        "aiokpl_metricsd.daemon",
    ],
)
def test_sigterm_ends_process_1_in_the_midst_of_each_import(nursery: Nursery, module: str) -> None:
    marker = nursery.directory / "marker"
    command = (*ISOLATE, sys.executable, "-m", "aiokpl_metricsd")
    outer = DaemonProcess(nursery, command=command, environ=halt_import(module, marker))
    wait_for(marker.exists, f"the import of {module}")
    os.kill(find_process_one(outer), signal.SIGTERM)
    marker.unlink()
    assert outer.wait() == 0
    assert "Traceback" not in outer.stderr
    assert not outer.socket_path.exists()


@needs_namespaces
def test_without_a_handler_process_1_does_not_notice_sigterm(nursery: Nursery) -> None:
    """What the handlers are for: if this ever fails, they are not needed."""
    go_on = nursery.directory / "go-on"
    wait = f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.01)"
    outer = nursery.start([*ISOLATE, sys.executable, "-c", wait])
    pid = find_process_one(outer)
    wait_for(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode()), "python")
    os.kill(pid, signal.SIGTERM)
    go_on.touch()
    assert outer.wait() == 0


def find_process_one(outer: Child) -> int:
    """Return the number that process 1 of the namespace has outside."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    return int(wait_for(lambda: children.read_text().split(), "process 1")[0])
