"""Backends that take every request unread and say yes, in a process of their own: what they cost is not ours.

    with serve_backends() as urls: ...

Whether what is sent is right is the tests' business; here the daemon's own ledger says whether it was taken.
"""

import asyncio
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import msgspec

from bench.process import ROOT, build_environment, print_json, stop
from bench.samples import MeasurementError

_Foreign: TypeAlias = Any

# By path: status and type, body.
_ANSWERS: dict[str, tuple[str, bytes]] = {
    "/": ("200 OK\r\nContent-Type: application/x-amz-json-1.0", b"{}"),
    "/v1/metrics": ("200 OK\r\nContent-Type: application/x-protobuf", b""),
    "/api/v2/series": ("202 Accepted\r\nContent-Type: application/json", b'{"errors":[]}'),
    "/api/v1/distribution_points": ("202 Accepted\r\nContent-Type: application/json", b'{"status":"ok"}'),
}


class _Taker(asyncio.Protocol):
    """Answers every request with success."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are transports by shape alone.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._waiting[:end])
            length = end + 4 + int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._waiting) < length:
                return
            del self._waiting[:length]
            status, body = _ANSWERS[head.split(b" ", 2)[1].decode()]
            self._transport.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def _serve_grpc() -> tuple[_Foreign, int]:
    """Serve every method of gRPC from threads, as long as the server is kept; return it and its port."""
    import grpc

    def answer(_request: bytes, _context: object) -> bytes:
        return b""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # the base has no types
        """Every message is answered with an empty one."""

        def service(self, handler_call_details: _Foreign) -> _Foreign:  # noqa: ARG002 - the base's
            """Return what answers, whatever is called."""
            return grpc.unary_unary_rpc_method_handler(answer)

    server: _Foreign = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
    port = int(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    return server, port


async def _take() -> None:
    server = await asyncio.get_running_loop().create_server(_Taker, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    grpc_server, grpc_port = _serve_grpc()
    print_json({"http": f"http://127.0.0.1:{port}", "grpc": f"http://127.0.0.1:{grpc_port}"})
    try:
        await server.serve_forever()
    finally:
        grpc_server.stop(0)


@contextmanager
def serve_backends() -> Generator[dict[str, str]]:
    """Serve until the end; the URLs are those of `http` and `grpc`.

    Raises:
        MeasurementError: they do not start.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.backends"],
        cwd=ROOT,
        env=build_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise MeasurementError("the backends do not start")
        yield msgspec.json.decode(line, type=dict[str, str])
    finally:
        stop(child)


def main() -> None:
    """Take what comes, until ended."""
    import uvloop

    uvloop.run(_take())


__all__ = ["main", "serve_backends"]

if __name__ == "__main__":
    main()
