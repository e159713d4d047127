"""CloudWatch for the contract suite: the strict stub behind the SDK, and a client of an application's."""

import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from aiohttp import web
from anyio.lowlevel import checkpoint

from aiokpl_metricsd.testing import Answer, Backend, Key
from tests.daemon.sinks.contract_backends import Totals
from tests.support import cloudwatch_stub


def total_datums(data: Iterable[Mapping[str, Any]]) -> Totals:
    totals = Totals()
    for datum in data:
        dimensions = tuple((each["Name"], each["Value"]) for each in datum.get("Dimensions", ()))
        key = (datum["MetricName"], dimensions, datum["Timestamp"] + 60.0)
        totals.add(key, datum["StatisticValues"]["Sum"])
    return totals


LOST = cloudwatch_stub.Answer(message="what it does to the request shall not be known")


class LosingStub(cloudwatch_stub.CloudWatchStub):
    """Where it is told to, takes a request and closes the connection."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        is_lost = self.script[:1] == [LOST]
        response = await super()._answer(request)
        if is_lost:
            assert request.transport is not None
            request.transport.abort()
        return response


class CloudWatchBackend(Backend):
    """The strict stub; a request has 5 datums at most."""

    answers = frozenset(Answer)

    def __init__(self, stub: LosingStub) -> None:
        self.stub = stub

    def answer_next(self, answer: Answer) -> None:
        scripts: dict[Answer, list[cloudwatch_stub.Answer | None]] = {
            Answer.ACCEPT: [None],
            Answer.RETRYABLE: [cloudwatch_stub.THROTTLED],
            Answer.PERMANENT: [cloudwatch_stub.Answer(400, "InvalidParameterValue", "no")],
            Answer.PARTIAL: [None, cloudwatch_stub.FAILED],
            Answer.LOST: [LOST],
            Answer.HANG: [cloudwatch_stub.HANG],
        }
        self.stub.script += scripts[answer]

    def poison(self, name: str) -> bool:
        self.stub.poison |= {name}
        return True

    def read(self) -> Mapping[Key, float]:
        return total_datums(self.stub.accepted)

    def is_hanging(self) -> bool:
        return self.stub._at_once > 0


class ServiceError(Exception):
    """What an SDK raises, by shape."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class ClientBackend(Backend):
    """A client that an application brings, as strict as the service, under any event loop."""

    answers = frozenset(Answer)

    def __init__(self) -> None:
        self._accepted: list[dict[str, Any]] = []
        self._script: list[Answer] = []
        self._poison = ""
        self._hanging = 0

    @asynccontextmanager
    async def open_client(self) -> AsyncGenerator["ClientBackend"]:
        yield self

    async def put_metric_data(self, *, Namespace: str, MetricData: list[dict[str, Any]]) -> None:  # noqa: N803 - the SDK's
        await checkpoint()
        answer = self._script.pop(0) if self._script else Answer.ACCEPT
        if answer is Answer.HANG:
            self._hanging += 1
            try:
                await anyio.sleep_forever()
            finally:
                self._hanging -= 1
        if answer is Answer.RETRYABLE:
            raise ServiceError(400, "ThrottlingException")
        data = [{**datum, "Timestamp": datum["Timestamp"].timestamp()} for datum in MetricData]
        try:
            cloudwatch_stub.check_payload({"Namespace": Namespace, "MetricData": data}, time.time())
        except cloudwatch_stub.Violation as violation:
            raise ServiceError(400, "InvalidParameterValue") from violation
        if answer is Answer.PERMANENT or any(datum["MetricName"] == self._poison for datum in data):
            raise ServiceError(400, "InvalidParameterValue")
        self._accepted += data
        if answer is Answer.LOST:
            raise ConnectionResetError

    def answer_next(self, answer: Answer) -> None:
        # A part is the first of two requests.
        self._script += [Answer.ACCEPT, Answer.RETRYABLE] if answer is Answer.PARTIAL else [answer]

    def poison(self, name: str) -> bool:
        self._poison = name
        return True

    def read(self) -> Mapping[Key, float]:
        return total_datums(self._accepted)

    def is_hanging(self) -> bool:
        return self._hanging > 0


__all__ = ["ClientBackend", "CloudWatchBackend", "LosingStub"]
