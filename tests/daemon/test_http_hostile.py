"""Requests as no browser makes them, over real sockets: refused in one answer, and nobody else notices."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiokpl_metricsd.serving import http
from tests.daemon.test_http import directory, serving

__all__ = ["directory"]

pytestmark = pytest.mark.asyncio

HOST = "Host: localhost\r\nConnection: close\r\n"


async def speak(directory: Path, request: bytes) -> bytes:
    """Return what a server answers until it closes; it serves another one afterwards."""
    async with serving(directory) as (rig, session):
        address = rig.doors.opened[-1].address
        assert address is not None
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 10.0)
        writer.close()
        async with session.get(f"{rig.url}/healthz") as good:
            assert good.status == 200
    return answer


def list_heads() -> Iterator[str]:
    """Yield requests that are one answer of the status before them."""
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        yield f"405 {method} /metrics HTTP/1.1\r\n{HOST}\r\n"
    for path in ("/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/metrics/", "//metrics", "/metrics%00", "/"):
        yield f"404 GET {path} HTTP/1.1\r\n{HOST}\r\n"
    chunk, many = "1\r\nx\r\n0\r\n\r\n", "X: y\r\n" * 200
    yield f"413 GET /metrics HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{chunk}"
    yield f"413 GET /metrics HTTP/1.1\r\n{HOST}Content-Length: 99999999999\r\n\r\n"
    yield f"400 GET /metrics HTTP/1.1\r\n{HOST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
    yield f"400 GET /metrics HTTP/1.1\r\n{HOST}{many}\r\n"
    yield f"400 GET /metrics HTTP/1.1\r\n{HOST}X: {'y' * http.MAX_LINE_BYTES}y\r\n\r\n"
    yield f"400 GET /{'x' * http.MAX_LINE_BYTES} HTTP/1.1\r\n{HOST}\r\n"
    yield "400 \x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"
    yield "421 GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    yield "421 GET /metrics HTTP/1.0\r\n\r\n"


@pytest.mark.parametrize("head", [pytest.param(each, id=each[:40].strip()) for each in list_heads()])
async def test_a_request_that_nobody_should_make_is_one_answer(directory: Path, head: str) -> None:
    status, _, request = head.partition(" ")
    answer = await speak(directory, request.encode("latin-1"))
    assert answer.startswith((f"HTTP/1.1 {status} ".encode(), f"HTTP/1.0 {status} ".encode()))
    assert answer.count(b"HTTP/1.") == 1
    assert b"# HELP" not in answer
    assert b"Traceback" not in answer


async def test_what_follows_a_refused_request_is_not_read_as_another(directory: Path) -> None:
    hidden = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    request = f"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(hidden)}\r\n\r\n{hidden}"
    answer = await speak(directory, request.encode())
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b" 405 " in answer.splitlines()[0]


async def test_a_head_that_comes_in_drops_has_the_time_of_one_and_no_more(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "FIRST_REQUEST_S", 0.2)
    async with serving(directory) as (rig, _):
        address = rig.doors.opened[-1].address
        assert address is not None
        reader, writer = await asyncio.open_connection(*address)

        async def drip() -> None:
            # For longer than anybody waits.
            for number in range(1_000):
                writer.write(b"G" if not number else b"E")
                await writer.drain()
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        answer = await asyncio.wait_for(reader.read(), 10.0)
        assert b"200" not in answer
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()
