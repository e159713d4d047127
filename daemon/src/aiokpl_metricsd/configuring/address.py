"""`host:port` -> address; a host -> the form in which two of them are compared."""

import re
from typing import NamedTuple

_MAX_PORT = 65_535

# What ends a host in an address, or cannot be in one.
_NO_HOST = re.compile(r"[][\s/@?#%,]|^$")


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


def normalize_host(text: str) -> str:
    """Return a name or an address, without a port, as it is compared with others.

    Raises:
        ValueError: it is no such thing.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    host = bare.lower().rstrip(".")
    if ":" in host:
        # Seldom needed: an address has several spellings.
        from ipaddress import IPv6Address

        return str(IPv6Address(host))
    if bare != text or _NO_HOST.search(host):
        raise ValueError(f"no host: {text!r}")
    return host


__all__ = ["Address", "normalize_host", "parse_address"]
