"""A configuration -> everything that `doctor` finds. The table of checks is below, in the report's order.

Each check is a function of what it judges, in a file of its own; here they are only put together. Nothing is
changed and no sink is entered; what is on the network is asked at the same time, each step with its limit.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from aiokpl_metrics_protocol import socket_candidates
from aiokpl_metricsd.config import Configuration
from aiokpl_metricsd.configuring.interpolation import is_secret_key
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.examining import account, clock, ingest, kernel, memory, storage
from aiokpl_metricsd.examining.backend import Examined, examine_sink, hide_secrets
from aiokpl_metricsd.examining.finding import REPORT_ADVICE, Finding, fail, find_ok, warn
from aiokpl_metricsd.receiving.acceptor import MAX_LANES, build_limits
from aiokpl_metricsd.serving.door import check_installed


class Found(Struct, frozen=True):
    """A finding, and what it is about.

    Attributes:
        check: `socket`, `state`, `sink NAME`, …
        finding: what was found.
    """

    check: str
    finding: Finding


class Subject(Struct, frozen=True):
    """What is examined.

    Attributes:
        configuration: as loaded.
        candidates: paths of the ingest socket, best first.
        is_offline: connect to no backend.
        environ: the variables.
        now: epoch seconds.
    """

    configuration: Configuration
    candidates: tuple[str, ...]
    is_offline: bool = False
    environ: Mapping[str, str] = {}
    wall_clock: Callable[[], float] = time.time

    @property
    def socket_path(self) -> str:
        """Where the daemon listens, or would."""
        return ingest.choose_path(self.candidates)

    @property
    def has_lanes(self) -> bool:
        """Whether there are lanes."""
        return self.configuration.state_dir is not None


Check = Callable[[Subject], Iterable[Finding]]


def build_subject(configuration: Configuration, *, is_offline: bool = False) -> Subject:
    """Return what is to be examined on this machine."""
    path = configuration.ingest.socket
    candidates = socket_candidates() if path is None else (path,)
    return Subject(configuration, candidates, is_offline, os.environ)


def examine(subject: Subject) -> list[Found]:
    """Make every check. Blocks, for some seconds where a backend does not answer."""
    secrets = _list_secrets(subject)
    found = [
        Found(name, hide_secrets(finding, secrets))
        for name, check in CHECKS
        for finding in _make(check, subject)
    ]
    examined = asyncio.run(_examine_sinks(subject))
    for name, each in examined.items():
        found += [Found(f"sink {name}", finding) for finding in each.findings]
    offsets = {name: each.offset_s for name, each in examined.items() if each.offset_s is not None}
    return found + [Found("clock", finding) for finding in clock.check_offsets(offsets)]


def _make(check: Check, subject: Subject) -> Iterator[Finding]:
    """Make one check; what it stumbles over is a finding as well, and ends none of the others."""
    try:
        yield from check(subject)
    except OSError as error:
        yield fail(f"cannot be looked at: {error}", "run this as the daemon's user")
    except Exception as error:  # noqa: BLE001 - one that nobody expected
        yield fail(f"the check itself failed: {type(error).__name__}: {error}", REPORT_ADVICE)


def refuse(error: ConfigurationError) -> list[Found]:
    """Return what there is to say where the configuration cannot be used."""
    advice = "mend it; docs/configuration.md lists every key"
    kernels = [Found("kernel", kernel.check_lanes()), Found("kernel", kernel.check_descriptors_refused())]
    return [Found("configuration", fail(str(error), advice)), *kernels]


def _list_secrets(subject: Subject) -> tuple[str, ...]:
    """Return what no line may show: it may come from anywhere, as out of a backend's answer."""
    of_sinks = (secret for options in subject.configuration.sinks.values() for secret in options.secrets)
    return (*of_sinks, *(value for name, value in subject.environ.items() if is_secret_key(name)))


async def _examine_sinks(subject: Subject) -> dict[str, Examined]:
    configuration = subject.configuration
    secrets = _list_secrets(subject)
    sinks = configuration.sinks
    examined = await asyncio.gather(
        *(
            examine_sink(
                options,
                configuration.interval_s,
                is_offline=subject.is_offline,
                secrets=secrets,
                wall_clock=subject.wall_clock,
            )
            for options in sinks.values()
        )
    )
    return dict(zip(sinks, examined, strict=True))


# ---- the checks of the machine


def _check_configuration(subject: Subject) -> Iterator[Finding]:
    configuration = subject.configuration
    sinks = ", ".join(f"{name} ({options.type})" for name, options in configuration.sinks.items())
    yield find_ok(f"windows of {configuration.interval_s} s, sinks: {sinks}")
    for options in configuration.sinks.values():
        for warning in options.warnings:
            yield warn(warning, "in Kubernetes set defaultMode: 0440 on the volume of the secret")
    try:
        check_installed(configuration.http.listen)
        if any(options.type == "prometheus" for options in configuration.sinks.values()):
            check_installed("a page")
    except ConfigurationError as error:
        yield fail(str(error), "install it where the daemon runs")


def _check_socket(subject: Subject) -> Iterator[Finding]:
    options = subject.configuration.ingest
    path = subject.socket_path
    yield ingest.check_path(subject.candidates, options, lanes=subject.has_lanes)
    yield ingest.check_directory(path)
    yield ingest.check_life(path, ingest.look_for_life(path))
    yield ingest.check_senders(path, options)
    yield from ingest.check_group(options)


def _check_daemon(subject: Subject) -> Iterator[Finding]:
    path = subject.socket_path
    if ingest.look_for_life(path).is_alive:
        yield from account.ask_account(path)
    else:
        yield find_ok("none runs here, so there is no account to look at")


def _check_kernel(subject: Subject) -> Iterator[Finding]:
    has_lanes = subject.has_lanes
    yield kernel.check_lanes()
    yield kernel.check_descriptors_refused()
    yield kernel.check_queue_length(kernel.read_queue_length(), lanes=has_lanes)
    yield kernel.check_open_files(build_limits().lanes, MAX_LANES, has_lanes=has_lanes)


def _check_state(subject: Subject) -> Iterator[Finding]:
    configuration = subject.configuration
    if configuration.state_dir is None:
        yield find_ok("no state_dir: what was accepted is in memory, and gone when the daemon is killed")
        return
    directory = Path(configuration.state_dir)
    yield storage.check_directory(directory)
    mounts = storage.MOUNTS.read_text(encoding="utf-8") if storage.MOUNTS.exists() else ""
    yield storage.check_volume(directory, storage.find_volume(mounts, os.path.realpath(directory)))
    yield storage.check_space(storage.measure_space(directory), configuration)
    yield storage.check_versions(directory)
    is_alive = ingest.look_for_life(subject.socket_path).is_alive
    yield storage.check_lock(directory, has_daemon=is_alive)


def _check_memory(subject: Subject) -> Iterable[Finding]:
    sinks = {options.type for options in subject.configuration.sinks.values()}
    return (memory.check_limit(memory.read_limit(), subject.configuration.limits.max_series, sinks),)


def _check_clock(subject: Subject) -> Iterable[Finding]:
    return (clock.check_epoch(subject.wall_clock()),)


CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("configuration", _check_configuration),
    ("socket", _check_socket),
    ("daemon", _check_daemon),
    ("state", _check_state),
    ("memory", _check_memory),
    ("kernel", _check_kernel),
    ("clock", _check_clock),
)


__all__ = ["CHECKS", "Found", "Subject", "build_subject", "examine", "refuse"]
