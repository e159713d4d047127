"""Child processes: one that answers in JSON, and what a running one has used of the machine."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.samples import MeasurementError

ROOT = Path(__file__).resolve().parent.parent

# An SDK that is given keys looks for nothing else.
_NO_CREDENTIALS = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}

_MIB = 1024.0  # VmRSS and VmHWM are given in KiB


def run_json(arguments: Sequence[str], timeout_s: float = 120.0) -> dict[str, float | str]:
    """Run this interpreter with `arguments` and return the JSON object that is its last line of output.

    Raises:
        MeasurementError: it failed, took too long, or printed something else.
    """
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=build_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"{' '.join(arguments)}: no answer within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise MeasurementError(f"{' '.join(arguments)}: exit status {done.returncode}: {reason}")
    try:
        return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=dict[str, float | str])
    except (IndexError, msgspec.DecodeError) as error:
        raise MeasurementError(f"{' '.join(arguments)}: printed no JSON object: {error}") from error


def print_json(answer: dict[str, float | str]) -> None:
    """Print an answer the way `run_json` reads it."""
    print(msgspec.json.encode(answer).decode(), flush=True)


def read_cpu_ns(pid: int) -> int:
    """Return the CPU time that all threads of a process have used, in nanoseconds.

    It is utime + stime of /proc/PID/stat without the rounding to 10 ms: the clock that clock_getcpuclockid(3)
    gives for a process is `~pid << 3` with the scheduler's clock, 2, in the low bits.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def read_memory_mib(pid: int) -> tuple[float, float]:
    """Return a process's resident memory now and at its highest, in MiB.

    Raises:
        MeasurementError: the process has ended.
    """
    fields: dict[str, float] = {}
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise MeasurementError(f"process {pid} has ended") from error
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in {"VmRSS", "VmHWM"}:
            fields[name] = int(value.split()[0]) / _MIB
    if len(fields) < 2:
        raise MeasurementError(f"process {pid} has ended")
    # The two are counted apart, and the highest may lag a little behind.
    return fields["VmRSS"], max(fields["VmRSS"], fields["VmHWM"])


def build_environment(**extra: str) -> dict[str, str]:
    """Return the environment for a child, without settings that would change what a library does."""
    # An installed package has its bytecode: a start that compiles every module first is nobody's.
    python = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    libraries = ("AIOKPL_", "AWS_", "DD_", "GRPC_", "OTEL_", "PROMETHEUS_", "SPECTATOR_", "STATSD_")
    proxies = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith((*libraries, *python)) and key.upper() not in proxies
    }
    return {**kept, **_NO_CREDENTIALS, **extra}


def stop(child: "subprocess.Popen[str]", timeout_s: float = 5.0) -> None:
    """End a child that this benchmark started, by force if need be."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()


__all__ = ["ROOT", "build_environment", "print_json", "read_cpu_ns", "read_memory_mib", "run_json", "stop"]
