"""One sink of the configuration -> whether it is ready, its backend in reach, and its credentials accepted.

The sink is built, and never entered. What it says of itself is asked for by shape: `check`, which looks for
packages and credentials; `locate`, which says where the backend is; `probe`, which asks the backend, or, of a
sink without one, the machine.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from msgspec import Struct

from aiokpl_metricsd.configuring.secrecy import redact
from aiokpl_metricsd.delivering.settings import build_settings
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.examining.finding import REPORT_ADVICE, Finding, fail, find_ok
from aiokpl_metricsd.examining.reach import UnreachableError, reach
from aiokpl_metricsd.sinks.contract import Endpoint
from aiokpl_metricsd.sinks.loading import SinkOptions, build_sink

# Each step has so long, and there are five: name, TCP, TLS, the time, the probe.
STEP_S = 4.0

# Packages are imported first: where all sinks' share a slow core that takes seconds.
_CHECK_S = 15.0

# What a step has beyond its own limit before it is cancelled.
_MARGIN_S = 1.0


class Examined(Struct, frozen=True):
    """What was found of one sink.

    Attributes:
        findings: in the order of looking.
        offset_s: seconds that this clock is ahead of the backend's; None where that is not known.
    """

    findings: tuple[Finding, ...]
    offset_s: float | None = None


async def examine_sink(
    options: SinkOptions,
    base_interval_s: int,
    *,
    is_offline: bool,
    secrets: Collection[str],
    wall_clock: Callable[[], float],
) -> Examined:
    """Look at one sink and its backend. Raises nothing: what a sink raises is a finding.

    Args:
        options: the sink's table.
        base_interval_s: the daemon's interval.
        is_offline: connect to nobody.
        secrets: texts that no message may show, beside those of the table.
        wall_clock: epoch seconds.
    """
    hidden = (*options.secrets, *secrets)
    look = _Look(options, is_offline=is_offline, wall_clock=wall_clock)
    try:
        await look.run(base_interval_s)
    except _Stopped:
        pass
    except Exception as error:  # noqa: BLE001 - what is asked for by shape may have another one
        message = f"it cannot be looked at: {type(error).__name__}: {error}"
        look.findings.append(fail(message, REPORT_ADVICE))
    findings = tuple(hide_secrets(each, hidden) for each in look.findings)
    return Examined(findings, look.offset_s)


def hide_secrets(finding: Finding, secrets: Collection[str]) -> Finding:
    """Return the finding on one line, with each of the secrets replaced."""
    message, advice = (redact(" ".join(text.split()), secrets) for text in (finding.message, finding.advice))
    return Finding(finding.outcome, message, advice)


class _Stopped(Exception):  # noqa: N818 - no error: what follows makes no sense
    """A step failed, and those after it need not be tried."""


class _Look:
    """The steps, one after the other."""

    def __init__(self, options: SinkOptions, *, is_offline: bool, wall_clock: Callable[[], float]) -> None:
        self.findings: list[Finding] = []
        self.offset_s: float | None = None
        self._options = options
        self._is_offline = is_offline
        self._wall_clock = wall_clock

    async def run(self, base_interval_s: int) -> None:
        """Take each step that the sink offers."""
        try:
            sink: Any = build_sink(self._options)
            build_settings(self._options, sink, base_interval_s)
        except ConfigurationError as error:
            raise self._stop(
                str(error), "mend the sink's table; docs/configuration.md lists its keys"
            ) from None
        if hasattr(sink, "check"):
            problem = "what is configured cannot be used"
            await self._ask(sink.check(), problem, "mend what it names", _CHECK_S)
            self._note("packages and credentials are there")
        if self._is_offline and hasattr(sink, "locate"):
            self._note("not asked, as nothing is to be connected to")
            return
        if hasattr(sink, "locate"):
            problem = "where its backend is cannot be told"
            await self._reach(await self._ask(sink.locate(), problem, "mend what it names", _CHECK_S))
        if hasattr(sink, "probe"):
            advice = "look at the credentials, at what they permit, and at what the backend says"
            said = await self._ask(sink.probe(STEP_S), "it would not be taken", advice)
            self._note(str(said))
        if not self.findings:
            self._note("built; it offers nothing to look at")

    async def _reach(self, endpoint: Endpoint | None) -> None:
        if endpoint is None:
            return
        try:
            reached = await reach(endpoint, STEP_S, self._wall_clock)
        except UnreachableError as error:
            raise self._stop(str(error), error.advice) from None
        self._note(reached.words)
        if reached.date is not None:
            self.offset_s = reached.asked_at - reached.date

    async def _ask(self, asking: Any, problem: str, advice: str, limit_s: float = 0.0) -> Any:  # noqa: ANN401 - whatever a sink answers
        """Wait for a sink's own words, for no longer than a step may take."""
        limit_s = limit_s or STEP_S + _MARGIN_S
        try:
            return await asyncio.wait_for(asking, limit_s)
        except TimeoutError:
            raise self._stop(f"{problem}: no answer within {limit_s:g} s", advice) from None
        except Exception as error:  # noqa: BLE001 - a sink may raise anything
            # A sink's own words for the operator stand by themselves.
            is_told = isinstance(error, ConfigurationError)
            words = str(error) if is_told else f"{problem}: {str(error) or type(error).__name__}"
            raise self._stop(words, "mend what it names" if is_told else advice) from None

    def _note(self, words: str) -> None:
        self.findings.append(find_ok(words))

    def _stop(self, message: str, advice: str) -> "_Stopped":
        self.findings.append(fail(message, advice))
        return _Stopped()


__all__ = ["STEP_S", "Examined", "examine_sink", "hide_secrets"]
