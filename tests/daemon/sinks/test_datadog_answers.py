"""What the intake may answer, and what the sink makes of it: who is sent again, what is never sent twice."""

import socket
from collections.abc import Iterator
from threading import Event
from typing import Any

import anyio
import pytest

from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.sinks.datadog.answer import Fate, decode_error, decode_errors, read_retry_after
from aiokpl_metricsd.sinks.datadog.sink import DatadogSink
from tests.daemon.sinks.datadog_snapshots import (
    build_histogram,
    build_sink,
    build_snapshot,
    clear_environment,
)
from tests.support.datadog_intake import DISTRIBUTIONS, HANG, RESET, SERIES, Answer, DatadogIntake

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@pytest.fixture
def intake() -> Iterator[DatadogIntake]:
    with DatadogIntake() as intake:
        yield intake


def build_window() -> list[Any]:
    return [
        build_snapshot("a", 1.0),
        build_snapshot("b", 2.0),
        build_histogram("h", [1.0, 2.0, 3.0]),
    ]


@pytest.mark.parametrize("status", [500, 502, 503, 408, 401, 403, 404, 302])
async def test_a_failure_that_is_not_the_datas_is_to_be_tried_again(
    intake: DatadogIntake, status: int
) -> None:
    intake.script = [Answer(status, headers=(("Location", "http://127.0.0.1:9/"),))]
    async with build_sink(intake) as sink:
        with pytest.raises(RetryableExportError, match=str(status)):
            await sink.export(build_window())
        assert len(intake.requests) == 1
        await sink.export(build_window())
    assert (intake.total("aiokpl.a"), intake.total("aiokpl.b")) == (1.0, 2.0)
    assert len(intake.distribution("aiokpl.h")) == 3


@pytest.mark.parametrize(
    "headers", [(("X-Ratelimit-Reset", "7"), ("Retry-After", "9")), (("Retry-After", "7"),)]
)
async def test_a_throttled_request_says_when_to_try_again(
    intake: DatadogIntake, headers: tuple[tuple[str, str], ...]
) -> None:
    intake.script = [Answer(429, headers=headers)]
    async with build_sink(intake) as sink:
        with pytest.raises(RetryableExportError) as caught:
            await sink.export(build_window())
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("status", [400, 422])
async def test_a_refused_body_is_refused_for_good_when_nothing_else_was_taken(
    intake: DatadogIntake, status: int
) -> None:
    intake.script = [Answer(status), Answer(status)]
    async with build_sink(intake) as sink:
        with pytest.raises(PermanentExportError, match="scripted"):
            await sink.export(build_window())


async def test_a_refused_request_does_not_keep_the_others_from_being_sent(intake: DatadogIntake) -> None:
    intake.script = [Answer(400, path=SERIES)]
    window = build_window()
    async with build_sink(intake) as sink:
        with pytest.raises(PartialExportError) as caught:
            await sink.export(window)
        assert list(caught.value.remaining) == window[:2]
        await sink.export(caught.value.remaining)
    assert intake.total("aiokpl.a") == 1.0
    assert len(intake.distribution("aiokpl.h")) == 3


async def test_an_accepted_answer_that_lists_errors_is_refused_for_series_which_may_be_repeated(
    intake: DatadogIntake,
) -> None:
    intake.script = [Answer(202, '{"errors": ["bad point"]}', takes=True, path=SERIES)]
    async with build_sink(intake) as sink:
        with pytest.raises(PermanentExportError, match="bad point"):
            await sink.export(build_window()[:2])
        await sink.export(build_window()[:2])
    assert intake.total("aiokpl.a") == 1.0


async def test_an_accepted_answer_that_lists_errors_is_accepted_for_distributions_which_would_double(
    intake: DatadogIntake, caplog: pytest.LogCaptureFixture
) -> None:
    intake.script = [Answer(202, '{"errors": ["odd"]}', takes=True, path=DISTRIBUTIONS)]
    async with build_sink(intake) as sink:
        await sink.export(build_window())
    assert len(intake.distribution("aiokpl.h")) == 3
    assert any("odd" in message for message in caplog.messages)


@pytest.mark.parametrize("body", ["<html>", "", "[]", '{"errors": 1}', "\ufffd"])
async def test_an_accepted_answer_that_cannot_be_read_is_accepted(intake: DatadogIntake, body: str) -> None:
    intake.script = [Answer(202, body, takes=True)]
    async with build_sink(intake) as sink:
        await sink.export(build_window())
    assert intake.total("aiokpl.b") == 2.0


async def test_a_request_that_is_too_large_is_sent_in_halves() -> None:
    window = [build_snapshot("a", 1.0, dimensions=(("n", str(n)),)) for n in range(10)]
    with DatadogIntake(max_points=2) as intake:
        async with build_sink(intake) as sink:
            await sink.export(window)
        assert intake.total("aiokpl.a") == 10.0


async def test_a_single_entry_that_is_too_large_is_refused_for_good() -> None:
    with DatadogIntake(max_points=0) as intake:
        async with build_sink(intake) as sink:
            with pytest.raises(PermanentExportError, match="too large"):
                await sink.export(build_window())


async def test_nobody_there_is_to_be_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    async with DatadogSink(api_key="KEY", host="h", endpoint_url=f"http://127.0.0.1:{port}") as sink:
        with pytest.raises(RetryableExportError, match="refused"):
            await sink.export(build_window())


async def test_no_answer_in_time_and_a_connection_reset_are_to_be_tried_again(intake: DatadogIntake) -> None:
    intake.script = [HANG, RESET]
    async with build_sink(intake, request_timeout_s=0.05) as sink:
        for _ in range(2):
            with pytest.raises(RetryableExportError, match="no answer"):
                await sink.export(build_window())
    async with build_sink(intake) as sink:
        await sink.export(build_window())
    assert intake.total("aiokpl.b") == 2.0


async def test_distributions_that_were_accepted_are_never_sent_again(intake: DatadogIntake) -> None:
    window = [build_histogram("h", [float(n)] * 1000, dimensions=(("n", str(n)),)) for n in range(1, 101)]
    intake.check_models = False
    ok = Answer(202, takes=True, body="{}", path=DISTRIBUTIONS)
    intake.script = [ok, Answer(503, path=DISTRIBUTIONS), ok, Answer(503, path=SERIES)]
    async with build_sink(intake, exact_statistics=True) as sink:
        with pytest.raises(RetryableExportError):
            await sink.export(window)
        remaining = window
        for _ in range(3):
            try:
                await sink.export(remaining)
            except PartialExportError as error:
                remaining = list(error.remaining)
            except RetryableExportError:
                continue
            else:
                break
    assert len(intake.distribution("aiokpl.h")) == 100_000
    assert all(len(points) == 1000 for points in intake.points.values())
    assert intake.total("aiokpl.h.count") == 100_000


async def test_what_was_accepted_before_the_export_was_cancelled_is_not_sent_again(
    intake: DatadogIntake,
) -> None:
    """The deadline passes while the last request waits for its answer."""
    intake.check_models = False
    window = [build_histogram("h", [1.0 + n / 7] * 1000, dimensions=(("n", str(n)),)) for n in range(100)]
    ok = Answer(202, takes=True, body="{}", path=DISTRIBUTIONS)
    intake.script = [ok, HANG._replace(path=DISTRIBUTIONS)]
    async with build_sink(intake) as sink:
        async with anyio.create_task_group() as group:
            group.start_soon(sink.export, window)
            await anyio.to_thread.run_sync(intake.asked.wait)
            group.cancel_scope.cancel()
        taken = len(intake.points)
        assert 0 < taken < 100
        intake.release()
        await sink.export(window)
    assert len(intake.points) == 100
    assert all(len(points) == 1000 for points in intake.points.values())


async def test_an_attempt_left_behind_notes_what_its_request_ended_with(intake: DatadogIntake) -> None:
    """The request was taken, but its answer came after the deadline; the next attempt waits for it."""
    reached, go_on = Event(), Event()

    def hold() -> None:
        reached.set()
        go_on.wait()

    window = build_window()[2:]
    intake.before_answer = hold
    async with build_sink(intake) as sink:
        async with anyio.create_task_group() as group:
            group.start_soon(sink.export, window)
            await anyio.to_thread.run_sync(reached.wait)
            group.cancel_scope.cancel()
        go_on.set()
        await sink.export(window)
    assert len(intake.requests) == 1
    assert len(intake.distribution("aiokpl.h")) == 3


async def test_an_attempt_that_hangs_holds_up_the_next_one_for_the_requests_timeout_only(
    intake: DatadogIntake,
) -> None:
    async with build_sink(intake, request_timeout_s=0.05) as sink:
        sink._shared.lock.acquire()
        with pytest.raises(RetryableExportError, match="earlier request"):
            await sink.export(build_window())
        sink._shared.lock.release()
    assert not intake.requests


async def test_an_export_without_time_left_sends_no_more_and_says_what_is_left(
    intake: DatadogIntake,
) -> None:
    async with build_sink(intake, export_timeout_s=1e-9) as sink:
        with pytest.raises(RetryableExportError, match="no time"):
            await sink.export(build_window())
    assert not intake.requests


async def test_the_key_is_in_no_error(intake: DatadogIntake) -> None:
    async with build_sink(intake, api_key="very-secret") as sink:
        with pytest.raises(RetryableExportError, match="wrong key") as caught:
            await sink.export(build_window())
    assert "very-secret" not in repr(caught.value)
    assert "very-secret" not in repr(sink._find_access())


def test_a_retry_after_may_be_a_date_or_useless() -> None:
    assert read_retry_after({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, 10.0) == 50.0
    assert read_retry_after({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, 100.0) == 0.0
    assert read_retry_after({"retry-after": "-5"}, 0.0) == 0.0
    for useless in ("soon", "nan", "inf", ""):
        assert read_retry_after({"X-Ratelimit-Reset": useless}, 0.0) is None


def test_an_error_of_any_shape_has_an_answer() -> None:
    assert decode_error(ValueError("x" * 1000), 0.0).fate is Fate.AGAIN
    error: Any = RuntimeError("tls")
    error.status, error.headers, error.body = 0, None, None
    assert decode_error(error, 0.0).fate is Fate.AGAIN
    error.status, error.body = 400, ["not", "a", "dictionary"]
    assert decode_error(error, 0.0).fate is Fate.REFUSED
    assert decode_errors(b'{"errors": [1, "two"]}') == ["1", "two"]
