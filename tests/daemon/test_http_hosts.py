"""Under which names HTTP is asked, over real sockets: a page in a browser may have one that leads here."""

import socket
from pathlib import Path

import pytest

from tests.daemon.test_http import directory, serving

__all__ = ["directory"]

pytestmark = pytest.mark.asyncio

WILDCARDS = {"0.0.0.0:0": "127.0.0.1", "[::]:0": "[::1]"}


def has_ipv6_loopback() -> bool:
    """Tell whether this machine has ::1."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def ask(directory: Path, listen: str, host: str, hosts: tuple[str, ...] | None = None) -> int:
    """Return the status of an answer over the loopback to who asks for a host."""
    async with serving(directory, listen, hosts) as (rig, session):
        address = rig.doors.opened[-1].address
        assert address is not None
        url = f"http://{WILDCARDS.get(listen, '127.0.0.1')}:{address.port}/healthz"
        async with session.get(url, headers={"Host": host}) as answer:
            return answer.status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9464", 200),
        ("127.0.0.1", 200),
        ("127.8.8.8:1", 200),
        ("[::1]:9464", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.1", 421),
        ("", 421),
    ],
)
async def test_on_loopback_only_a_local_host_name_is_served(directory: Path, host: str, status: int) -> None:
    assert await ask(directory, "127.0.0.1:0", host) == status


@pytest.mark.parametrize("listen", WILDCARDS)
async def test_who_reaches_a_wildcard_over_the_loopback_is_asked_for_a_local_host_name_as_well(
    directory: Path, listen: str
) -> None:
    if listen.startswith("[") and not has_ipv6_loopback():
        pytest.skip("this machine has no ::1")
    assert await ask(directory, listen, "evil.example") == 421
    assert await ask(directory, listen, "localhost:9464") == 200


async def test_a_name_that_is_listed_is_served_over_the_loopback_and_another_is_not(directory: Path) -> None:
    hosts = ("metrics.example",)
    assert await ask(directory, "0.0.0.0:0", "metrics.example:80", hosts) == 200
    assert await ask(directory, "0.0.0.0:0", "evil.example", hosts) == 421


@pytest.mark.parametrize("hosts", [None, ("metrics.example",)])
async def test_on_the_unix_socket_any_host_is_served(directory: Path, hosts: tuple[str, ...] | None) -> None:
    async with serving(directory, "127.0.0.1:0", hosts) as (rig, _):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            assert await speak(connection, rig.path) == b"HTTP/1.1 200 OK"


async def speak(connection: socket.socket, path: Path) -> bytes:
    """Return the first line of the answer on a Unix socket to who asks for a host elsewhere."""
    import asyncio

    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, str(path))
    await loop.sock_sendall(connection, b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    answer = await asyncio.wait_for(loop.sock_recv(connection, 4_096), 10.0)
    return answer.partition(b"\r\n")[0]
