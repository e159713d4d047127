"""What a sink offers to look at is looked at, in order, and whatever it raises is a finding."""

import asyncio
import time
from typing import Self

import pytest

from aiokpl_metricsd.errors import ConfigurationError, RetryableExportError
from aiokpl_metricsd.examining import backend
from aiokpl_metricsd.examining.backend import Examined, examine_sink
from aiokpl_metricsd.examining.finding import REPORT_ADVICE, Outcome
from aiokpl_metricsd.sinks import NullSink
from aiokpl_metricsd.sinks.contract import Endpoint
from aiokpl_metricsd.sinks.loading import SinkOptions
from tests.support.datadog_intake import DatadogIntake


class OpenSink(NullSink):
    """Offers all there is to look at."""

    def __init__(self, port: int = 0, *, check: object = None, probe: object = "it is taken") -> None:
        self.endpoint = Endpoint("127.0.0.1", port, speaks_http=True) if port else None
        self.answers = {"check": check, "probe": probe}
        self.asked: list[str] = []

    async def answer(self, name: str) -> object:
        self.asked.append(name)
        answer = self.answers[name]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def check(self) -> None:
        await self.answer("check")

    async def locate(self) -> Endpoint | None:
        self.asked.append("locate")
        return self.endpoint

    async def probe(self, timeout_s: float) -> str:
        return str(await self.answer("probe"))

    async def __aenter__(self) -> Self:
        raise AssertionError("it must not be entered")


def examine(
    sink: object,
    *,
    is_offline: bool = False,
    secrets: tuple[str, ...] = (),
    own_secrets: tuple[str, ...] = (),
    at_most_once: bool = False,
) -> Examined:
    options = SinkOptions(
        name="s",
        type="acme",
        factory=lambda: sink,
        interval_s=60,
        at_most_once=at_most_once,
        secrets=own_secrets,
    )
    examining = examine_sink(options, 60, is_offline=is_offline, secrets=secrets, wall_clock=time.time)
    return asyncio.run(examining)


def list_outcomes(examined: Examined) -> list[tuple[Outcome, str]]:
    return [(each.outcome, each.message) for each in examined.findings]


def test_a_sink_that_offers_nothing_is_well_once_it_is_built() -> None:
    assert list_outcomes(examine(NullSink())) == [(Outcome.OK, "built; it offers nothing to look at")]


def test_what_it_offers_is_asked_for_in_order() -> None:
    with DatadogIntake() as intake:
        intake.ahead_s = -100.0
        sink = OpenSink(int(intake.url.rpartition(":")[2]))
        examined = examine(sink)
    assert sink.asked == ["check", "locate", "probe"]
    assert [outcome for outcome, _ in list_outcomes(examined)] == [Outcome.OK] * 3
    assert examined.offset_s is not None
    assert 99.0 < examined.offset_s < 105.0


def test_offline_only_the_machine_is_asked() -> None:
    sink = OpenSink(9)
    examined = examine(sink, is_offline=True)
    assert sink.asked == ["check"]
    assert list_outcomes(examined)[-1] == (Outcome.OK, "not asked, as nothing is to be connected to")


def test_after_a_failure_the_rest_is_not_asked() -> None:
    sink = OpenSink(9, check=ConfigurationError("acme: no key; set ACME_KEY"))
    assert list_outcomes(examine(sink)) == [(Outcome.FAILURE, "acme: no key; set ACME_KEY")]
    assert sink.asked == ["check"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RetryableExportError("403: wrong key"), "it would not be taken: 403: wrong key"),
        (ValueError(), "it would not be taken: ValueError"),
        (ConfigurationError("no such\nfile"), "no such file"),
    ],
)
def test_whatever_a_probe_raises_is_one_line(error: Exception, said: str) -> None:
    assert list_outcomes(examine(OpenSink(probe=error)))[-1] == (Outcome.FAILURE, said)


def test_a_sink_that_hangs_is_left_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class HangingSink(NullSink):
        async def probe(self, timeout_s: float) -> str:
            await asyncio.Event().wait()
            return "never"

    monkeypatch.setattr(backend, "STEP_S", 0.01)
    monkeypatch.setattr(backend, "_MARGIN_S", 0.01)
    assert list_outcomes(examine(HangingSink())) == [
        (Outcome.FAILURE, "it would not be taken: no answer within 0.02 s")
    ]


def test_a_sink_that_the_start_refuses_is_a_failure() -> None:
    examined = examine(NullSink(), at_most_once=True)
    assert [outcome for outcome, _ in list_outcomes(examined)] == [Outcome.FAILURE]
    assert [outcome for outcome, _ in list_outcomes(examine(object()))] == [Outcome.FAILURE]


def test_no_secret_is_said() -> None:
    error = RetryableExportError("the key hunter2-hunter2 and the token tok-12345 are wrong")
    examined = examine(OpenSink(probe=error), secrets=("tok-12345",), own_secrets=("hunter2-hunter2",))
    assert examined.findings[-1].message == "it would not be taken: the key *** and the token *** are wrong"


def test_a_sink_whose_methods_have_another_shape_is_a_failure_and_no_traceback() -> None:
    class OddSink(NullSink):
        def check(self) -> None:
            raise LookupError("no such thing as odd-secret")

    class NowhereSink(NullSink):
        async def locate(self) -> str:
            return "somewhere"

    for sink, words in (
        (OddSink(), "LookupError: no such thing as ***"),
        (NowhereSink(), "AttributeError: "),
    ):
        finding = examine(sink, secrets=("odd-secret",)).findings[-1]
        assert finding.outcome is Outcome.FAILURE
        assert finding.message.startswith(f"it cannot be looked at: {words}")
        assert finding.advice == REPORT_ADVICE
