"""A backend's name, TCP, TLS and time, each with its own fault, on the loopback."""

import socket
import ssl
import time
from pathlib import Path
from threading import Event

import pytest

from aiokpl_metricsd.examining.reach import UnreachableError, reach, read_date
from aiokpl_metricsd.sinks.contract import Endpoint
from tests.support.certificates import make_certificate
from tests.support.datadog_intake import DatadogIntake
from tests.support.otlp_receiver import serve_http


def find_port(intake: DatadogIntake) -> int:
    return int(intake.url.rpartition(":")[2])


@pytest.mark.asyncio
async def test_the_time_of_a_backend_is_read_in_the_middle_of_its_second() -> None:
    with DatadogIntake() as intake:
        intake.ahead_s = 100.0
        endpoint = Endpoint("127.0.0.1", find_port(intake), speaks_http=True)
        reached = await reach(endpoint, 10.0, time.time)
    assert reached.words == f"127.0.0.1:{endpoint.port} answers over TCP"
    assert reached.date is not None
    # Whole seconds, and whatever this machine takes in between.
    assert 95.0 < reached.date - reached.asked_at < 101.0


@pytest.mark.asyncio
async def test_who_does_not_speak_http_is_not_asked_for_the_time() -> None:
    with DatadogIntake() as intake:
        reached = await reach(Endpoint("localhost", find_port(intake)), 10.0, time.time)
    assert reached.date is None


@pytest.mark.asyncio
async def test_a_name_without_an_address_is_a_matter_of_dns() -> None:
    def refuse(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(
        UnreachableError, match=r"^nowhere: the name cannot be resolved: Name or service"
    ) as caught:
        await reach(Endpoint("nowhere", 443), 10.0, time.time, refuse)
    assert "DNS" in caught.value.advice


@pytest.mark.asyncio
async def test_a_resolver_that_hangs_is_left_behind() -> None:
    released = Event()

    def hang(host: str, port: int) -> list[str]:
        released.wait()
        return []

    try:
        with pytest.raises(UnreachableError, match=r"no answer within 0\.01 s"):
            await reach(Endpoint("nowhere", 443), 0.01, time.time, hang)
    finally:
        released.set()


@pytest.mark.asyncio
async def test_a_port_where_nobody_listens_is_a_matter_of_the_network() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UnreachableError, match=f"^127.0.0.1:{port}: no connection: Connection refused$"):
            await reach(Endpoint("127.0.0.1", port), 10.0, time.time)


@pytest.mark.asyncio
async def test_who_does_not_speak_tls_is_told_from_who_is_not_there() -> None:
    with DatadogIntake() as intake:
        endpoint = Endpoint("127.0.0.1", find_port(intake), ssl.create_default_context())
        with pytest.raises(UnreachableError, match="no TLS: "):
            await reach(endpoint, 10.0, time.time)


@pytest.mark.asyncio
async def test_a_certificate_that_nobody_trusts_is_told_from_one_that_is(tmp_path: Path) -> None:
    certificates = make_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=certificates.certificate)
    trusting.load_cert_chain(certificates.certificate, certificates.key)
    with serve_http(certificates) as receiver:
        port = int(receiver.endpoint.rpartition(":")[2])
        reached = await reach(Endpoint("127.0.0.1", port, trusting), 10.0, time.time)
        assert reached.words == f"127.0.0.1:{port} answers over TLS"
        with pytest.raises(UnreachableError, match=r"its certificate is not accepted: self-signed") as caught:
            await reach(Endpoint("127.0.0.1", port, ssl.create_default_context()), 10.0, time.time)
    assert "trust the authority" in caught.value.advice


@pytest.mark.asyncio
async def test_who_accepts_and_says_nothing_keeps_nobody_waiting() -> None:
    # Whoever connects waits in the kernel, and nobody accepts.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = Endpoint("127.0.0.1", silent.getsockname()[1], speaks_http=True)
        reached = await reach(endpoint, 0.05, time.time)
    assert reached.words.endswith("and does not say the time")


@pytest.mark.parametrize(
    ("head", "date"),
    [
        (b"HTTP/1.1 200 OK\r\nDate: Mon, 30 Nov 2026 12:00:00 GMT\r\n\r\n", 1_796_040_000.0),
        (b"HTTP/1.1 404 Not Found\r\ndate:Mon, 30 Nov 2026 12:00:00 GMT\r\n\r\n", 1_796_040_000.0),
        (b"HTTP/1.1 200 OK\r\nDate: yesterday\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"\x00\xff", None),
    ],
)
def test_a_date_is_read_or_is_none(head: bytes, date: float | None) -> None:
    assert read_date(head) == date
