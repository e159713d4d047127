"""`host:port` -> address."""

from typing import NamedTuple

_MAX_PORT = 65_535


class Address(NamedTuple):
    """Where TCP is listened on.

    Attributes:
        host: a name or an address, without brackets.
        port: 0 for any that is free.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `host:port`; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is no such thing.
    """
    host, separator, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    number = int(port) if port.isascii() and port.isdecimal() else -1
    if not separator or not bare or (":" in bare) != (bare != host) or not 0 <= number <= _MAX_PORT:
        raise ValueError(f"no address: {text!r}")
    return Address(bare, number)


__all__ = ["Address", "parse_address"]
