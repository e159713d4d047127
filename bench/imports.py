"""What importing the client adds to an application's start, beside its peers.

Every import runs in fresh interpreters, in turn with a bare one; what counts is the difference to the bare
one of the same turn, so that a slow moment of the machine is in both.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from bench.process import ROOT, build_environment
from bench.samples import Plan, Samples

_STATEMENTS: dict[str, str] = {
    "bare": "pass",
    "msgspec": "import msgspec",
    "client": "import aiokpl_metrics_client",
    "statsd": "import statsd",
    "spectator": "import spectator",
    "prometheus_client": "import prometheus_client",
    "opentelemetry": "import opentelemetry.sdk.metrics",
    "datadog": "import datadog",
    "aiokpl": "import aiokpl",
}

# The same for every statement, so that it cancels out.
_SCRIPT = "import sys\n{statement}\nsys.stdout.write(chr(10).join(sys.modules))"

_OURS = ("aiokpl_metrics_client", "aiokpl_metrics_protocol", "msgspec")

_INTERPRETERS = 12

PREFIX = "import."


@dataclass(frozen=True, slots=True)
class _Run:
    wall_ms: float
    cpu_ms: float
    modules: frozenset[str]


def collect(plan: Plan, samples: Samples) -> None:
    """Import everything in turn; over all passes each is imported `_INTERPRETERS` times or more."""
    names = [name for name in _STATEMENTS if name != "bare" and _is_wanted(plan, name)]
    if not names:
        return
    for _ in range(-(-_INTERPRETERS // plan.passes)):
        bare = _import("bare")
        msgspec_run = _import("msgspec") if "client" in names else None
        if bare is None:
            samples.errors.append("import.bare: the interpreter does not start")
            return
        for name in names:
            run = msgspec_run if name == "msgspec" and msgspec_run is not None else _import(name)
            if run is None:
                samples.skipped[f"{PREFIX}{name}"] = "it cannot be imported here"
                continue
            samples.add(f"{PREFIX}{name}.wall_ms", run.wall_ms - bare.wall_ms)
            samples.add(f"{PREFIX}{name}.cpu_ms", run.cpu_ms - bare.cpu_ms)
            samples.add(f"{PREFIX}{name}.modules", len(run.modules - bare.modules))
            if name == "client" and msgspec_run is not None:
                samples.add(f"{PREFIX}{name}.over_msgspec_wall_ms", run.wall_ms - msgspec_run.wall_ms)
                samples.add(f"{PREFIX}{name}.over_msgspec_cpu_ms", run.cpu_ms - msgspec_run.cpu_ms)
                _check_modules(run.modules - msgspec_run.modules, samples)


def _is_wanted(plan: Plan, name: str) -> bool:
    quantities = (
        "wall_ms",
        "cpu_ms",
        "modules",
        "over_msgspec_wall_ms",
        "over_msgspec_cpu_ms",
        "foreign_modules",
    )
    return plan.wants_any(f"{PREFIX}{name}.{quantity}" for quantity in quantities)


def _check_modules(added: frozenset[str], samples: Samples) -> None:
    """Count what a thin client must not bring along: third-party modules, and asyncio."""
    foreign = sorted(
        name
        for name in added
        if name.partition(".")[0] not in {*_OURS, *sys.stdlib_module_names}
        or name.partition(".")[0] == "asyncio"
    )
    samples.add(f"{PREFIX}client.foreign_modules", len(foreign))
    if foreign:
        samples.note(f"importing the client brings along: {', '.join(foreign)}")


def _import(name: str) -> _Run | None:
    """Start one interpreter, import, and return what it took; None when it failed."""
    script = _SCRIPT.format(statement=_STATEMENTS[name])
    start_s = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=build_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    with child.stdout:
        output = child.stdout.read()
    # wait4 gives this child's usage alone; Popen's own wait would take it away.
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - start_s
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        return None
    cpu_s = usage.ru_utime + usage.ru_stime
    return _Run(wall_s * 1e3, cpu_s * 1e3, frozenset(output.decode().split("\n")))


__all__ = ["PREFIX", "collect"]
