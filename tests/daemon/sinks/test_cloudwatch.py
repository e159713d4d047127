"""Windows -> a strict CloudWatch, through the SDK: what is sent, and what follows from each answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aiokpl_metricsd.errors import (
    ConfigurationError,
    ExportError,
    PartialExportError,
    PermanentExportError,
    RetryableExportError,
)
from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink
from aiokpl_metricsd.sinks.contract import MetricsSink, RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.cloudwatch_stub import (
    EXPIRED,
    FAILED,
    HANG,
    RESET,
    THROTTLED,
    TOO_LARGE,
    Answer,
    CloudWatchStub,
    isolate,
)

NAN = float("nan")
INVALID = Answer(400, "InvalidParameterValue", "no")

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


def build_window(size: int, prefix: str = "m", **fields: Any) -> list[MetricSnapshot]:  # noqa: ANN401 - a snapshot's
    end = time.time() // 60 * 60
    base: dict[str, Any] = {"window_start": end - 60.0, "window_end": end, **fields}
    return [MetricSnapshot(f"{prefix}{i}", 2, 3.0, 1.0, 2.0, (("stream", "s"),), **base) for i in range(size)]


@asynccontextmanager
async def serving(
    script: Sequence[Answer | None] = (),
    *,
    poison: Sequence[str] = (),
    **options: Any,  # noqa: ANN401 - a sink's
) -> AsyncGenerator[tuple[CloudWatchStub, CloudWatchSink]]:
    async with (
        CloudWatchStub(script, poison=poison) as stub,
        CloudWatchSink(**stub.options | options) as sink,
    ):
        yield stub, sink


async def fail(sink: CloudWatchSink, window: Sequence[MetricSnapshot]) -> ExportError:
    with pytest.raises(ExportError) as caught:
        await sink.export(window)
    return caught.value


def names(snapshots: Sequence[MetricSnapshot]) -> list[str]:
    return [each.name for each in snapshots]


def arrived(stub: CloudWatchStub) -> list[str]:
    return [datum["MetricName"] for datum in stub.accepted]


async def test_it_is_a_sink_that_adds_and_takes_its_windows_in_any_order() -> None:
    sink = CloudWatchSink(region="eu-west-1", namespace="orders")
    assert isinstance(sink, MetricsSink)
    assert (sink.repeat_rule, sink.ordered, sink.namespace) == (RepeatRule.ADDS, False, "orders")


async def test_a_window_arrives_in_order_signed_and_compressed() -> None:
    window = build_window(500)
    async with serving() as (stub, sink):
        await sink.export(window)
    assert arrived(stub) == names(window)
    (request,) = stub.requests
    assert request.is_compressed
    assert stub.accepted[0] == {
        "MetricName": "m0",
        "Timestamp": window[0].window_start,
        "Unit": "None",
        "StatisticValues": {"SampleCount": 2.0, "Sum": 3.0, "Minimum": 1.0, "Maximum": 2.0},
        "Dimensions": [{"Name": "StreamName", "Value": "s"}],
    }


@pytest.mark.parametrize(("size", "options"), [(3, {}), (500, {"compress": False})])
async def test_a_request_is_not_compressed_where_that_is_not_worth_it_or_not_wanted(
    size: int, options: dict[str, Any]
) -> None:
    async with serving(**options) as (stub, sink):
        await sink.export(build_window(size))
    assert [request.is_compressed for request in stub.requests] == [False]
    assert len(stub.accepted) == size


async def test_requests_are_cut_at_a_thousand_datums_and_begun_in_order() -> None:
    window = build_window(2_500)
    async with serving(concurrency=1) as (stub, sink):
        await sink.export(window)
    assert [len(request.data) for request in stub.requests] == [1000, 1000, 500]
    assert arrived(stub) == names(window)


async def test_requests_are_cut_at_a_million_bytes_and_nearly_fill_them() -> None:
    end = time.time()
    dimensions = tuple((f"k{i:02}" + '"' * 200, "\\" * 1000) for i in range(10))
    window = [
        MetricSnapshot("m", 1, 1.0, 1.0, 1.0, (*dimensions, ("n", str(i))), end - 60, end) for i in range(100)
    ]
    async with serving() as (stub, sink):
        await sink.export(window)
    assert len(stub.accepted) == 100
    assert stub.refused == []
    sizes = sorted(request.size_bytes for request in stub.requests)
    assert 950_000 < sizes[-2] <= 999_000


async def test_at_most_so_many_requests_are_under_way_at_once() -> None:
    gate = asyncio.Event()
    async with serving([Answer(gate=gate)] * 9, max_datums=1, concurrency=3) as (stub, sink):
        export = asyncio.create_task(sink.export(build_window(9)))
        await stub.wait_at_once(3)
        gate.set()
        await export
    assert stub.most_at_once == 3
    assert len(stub.accepted) == 9


@pytest.mark.parametrize(
    "answer", [THROTTLED, FAILED, EXPIRED, RESET, Answer(429), Answer(503), Answer(302), Answer(404)]
)
async def test_what_is_not_the_datas_fault_may_be_tried_again_and_is_tried_once(answer: Answer) -> None:
    async with serving([answer]) as (stub, sink):
        error = await fail(sink, build_window(3))
        assert isinstance(error, RetryableExportError)
        assert len(stub.requests) == 1
        await sink.export(build_window(3))
        assert len(stub.accepted) == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_answer_of_a_place_that_a_redirect_leads_to_does_not_count(status: int) -> None:
    page = web.Application()
    page.router.add_route("*", "/login", _answer_page)
    runner = web.AppRunner(page)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    location = f"http://127.0.0.1:{runner.addresses[0][1]}/login"
    redirect = Answer(status, "Moved", "elsewhere", {"Location": location})
    async with serving([redirect]) as (stub, sink):
        error = await fail(sink, build_window(3))
        assert isinstance(error, RetryableExportError)
        assert f"{status} to {location}" in str(error)
        await sink.export(build_window(3))
        assert len(stub.accepted) == 3
    await runner.cleanup()


async def _answer_page(_: web.Request) -> web.Response:
    return web.Response(text="please log in")


async def test_a_request_that_gets_no_answer_in_time_may_be_tried_again() -> None:
    async with serving([HANG], request_timeout_s=0.05) as (_, sink):
        error = await fail(sink, build_window(3))
        assert isinstance(error, RetryableExportError)
        assert "no answer" in str(error)


async def test_nobody_listening_may_be_tried_again() -> None:
    async with CloudWatchStub() as stub:
        options = stub.options
    async with CloudWatchSink(**options) as sink:
        assert isinstance(await fail(sink, build_window(1)), RetryableExportError)


async def test_expired_credentials_are_named_as_such_and_are_no_poison() -> None:
    unrecognised = Answer(400, "UnrecognizedClientException", "The security token is invalid")
    async with serving([EXPIRED, unrecognised]) as (_, sink):
        for code in ("ExpiredToken", "UnrecognizedClientException"):
            error = await fail(sink, build_window(1))
            assert isinstance(error, RetryableExportError)
            assert f"credentials or permissions are not accepted ({code}" in str(error)


async def test_the_time_to_wait_that_the_service_names_is_handed_on() -> None:
    throttled = Answer(400, "Throttling", "Rate exceeded", {"Retry-After": "7"})
    async with serving([throttled, None, throttled], max_datums=1, concurrency=1) as (_, sink):
        error = await fail(sink, build_window(1))
        assert isinstance(error, RetryableExportError)
        assert error.retry_after_s == 7.0
        partial = await fail(sink, build_window(3))
        assert isinstance(partial, PartialExportError)
        assert partial.retry_after_s == 7.0


async def test_after_a_throttled_request_no_other_is_begun_and_what_was_taken_is_not_sent_again() -> None:
    window = build_window(6)
    async with serving([None, THROTTLED], max_datums=2, concurrency=1) as (stub, sink):
        error = await fail(sink, window)
        assert isinstance(error, PartialExportError)
        assert names(error.remaining) == ["m2", "m3", "m4", "m5"]
        assert error.rejected == ()
        assert error.retry_after_s == 1.0
        assert len(stub.requests) == 2
        await sink.export(error.remaining)
        assert arrived(stub) == names(window)


async def test_a_refused_request_costs_no_other_and_is_handed_back_to_be_bisected() -> None:
    async with serving(poison=["m3"], max_datums=2, concurrency=2) as (stub, sink):
        error = await fail(sink, build_window(6))
        assert isinstance(error, PartialExportError)
        assert names(error.remaining) == ["m2", "m3"]
        assert error.retry_after_s is None
        assert sorted(arrived(stub)) == ["m0", "m1", "m4", "m5"]
        assert isinstance(await fail(sink, error.remaining), PermanentExportError)


async def test_a_refusal_of_everything_is_permanent() -> None:
    async with serving([INVALID] * 3, max_datums=1) as (stub, sink):
        assert isinstance(await fail(sink, build_window(3)), PermanentExportError)
        assert len(stub.requests) == 3


async def test_a_request_that_is_too_large_goes_again_in_smaller_ones() -> None:
    window = build_window(100)
    async with serving(concurrency=1) as (stub, sink):
        stub.max_body_bytes = 6_000
        # Of 19 KB, then of 10 KB.
        for _ in range(2):
            error = await fail(sink, window)
            assert isinstance(error, RetryableExportError)
            assert "too large" in str(error)
        await sink.export(window)
        assert arrived(stub) == names(window)


async def test_a_single_datum_that_is_too_large_is_refused() -> None:
    async with serving([TOO_LARGE]) as (_, sink):
        assert isinstance(await fail(sink, build_window(1)), PermanentExportError)


async def test_what_cannot_be_sent_is_named_and_costs_no_other() -> None:
    window = [*build_window(2), MetricSnapshot("bad", 1, NAN, 1.0, 1.0, (("stream", "s"),))]
    async with serving() as (stub, sink):
        error = await fail(sink, window)
        assert isinstance(error, PartialExportError)
        assert (error.remaining, names(error.rejected)) == ((), ["bad"])
        assert str(error) == "cannot be sent: bad (('stream', 's'),): number_out_of_range"
        assert arrived(stub) == ["m0", "m1"]


async def test_of_many_that_cannot_be_sent_a_few_are_named() -> None:
    window = [MetricSnapshot(f"bad{i}", 1, NAN, 1.0, 1.0) for i in range(5)]
    async with serving() as (stub, sink):
        error = await fail(sink, window)
        assert "bad2 (): number_out_of_range, 2 more" in str(error)
        assert stub.requests == []


async def test_what_cannot_be_sent_waits_with_the_rest_while_the_service_fails() -> None:
    window = [*build_window(2), MetricSnapshot("bad", 1, NAN, 1.0, 1.0)]
    async with serving([FAILED]) as (_, sink):
        assert isinstance(await fail(sink, window), RetryableExportError)


async def test_an_export_ends_by_itself_and_hands_back_what_there_was_no_time_for() -> None:
    async with serving(max_datums=1, concurrency=1, export_timeout_s=1e-9) as (stub, sink):
        # The first request may be begun in the same tick of a coarse clock; a later one cannot.
        error = await fail(sink, build_window(5))
        assert isinstance(error, PartialExportError)
        assert names(error.remaining) == [f"m{i}" for i in range(len(stub.accepted), 5)]
        assert error.retry_after_s is None
        assert "not sent in the time for one export" in str(error)


async def test_nothing_is_done_with_nothing_or_outside_of_entering() -> None:
    async with CloudWatchStub() as stub:
        sink = CloudWatchSink(**stub.options)
        await sink.export(build_window(1))
        async with sink:
            await sink.export([])
        await sink.export(build_window(1))
        assert stub.requests == []


async def test_it_may_be_entered_and_left_twice() -> None:
    async with CloudWatchStub() as stub:
        sink = CloudWatchSink(**stub.options)
        for _ in range(2):
            async with sink:
                await sink.export(build_window(1))
        await sink.__aexit__(None, None, None)
        assert len(stub.accepted) == 2


async def test_an_export_that_is_cancelled_ends_and_the_next_one_works() -> None:
    async with serving([HANG, HANG], max_datums=1) as (stub, sink):
        export = asyncio.create_task(sink.export(build_window(2)))
        await stub.wait_at_once(2)
        export.cancel()
        with pytest.raises(asyncio.CancelledError):
            await export
        await sink.export(build_window(1))
        assert len(stub.accepted) == 1


async def test_without_credentials_entering_and_checking_say_so() -> None:
    sink = CloudWatchSink(region="eu-west-1")
    with pytest.raises(ConfigurationError, match="no credentials"):
        await sink.check()
    with pytest.raises(ConfigurationError, match="no credentials"):
        await sink.__aenter__()
    await CloudWatchSink(region="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b").check()


async def test_a_profile_that_is_not_there_is_an_error_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="nobody"):
        await CloudWatchSink(region="eu-west-1").check()


@pytest.mark.parametrize(
    "options",
    [
        {"region": ""},
        {"namespace": ""},
        {"namespace": ":a"},
        {"namespace": "AWS/Kinesis"},
        {"namespace": "é"},
        {"namespace": "x" * 256},
        {"aws_access_key_id": "a"},
        {"storage_resolution": 5},
        {"max_datums": 0},
        {"max_datums": 1001},
        {"concurrency": 0},
        {"request_timeout_s": 0},
    ],
)
async def test_an_option_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"region": "eu-west-1"} | options
    with pytest.raises(ValueError, match=next(iter(options))):
        CloudWatchSink(**arguments)
