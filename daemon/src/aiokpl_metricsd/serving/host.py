"""A Host header and the address that was connected to -> whether this name is served here.

A page in somebody's browser may have a name that leads to this machine (DNS rebinding). Its requests come
over the loopback, or over a port that is forwarded to it, and the Host header alone tells them from others.
"""

import ipaddress
from collections.abc import Collection

from aiokpl_metricsd.configuring.address import normalize_host


class HostRule:
    """Judges the requests of one TCP address.

    Args:
        hosts: names and addresses that are served, without a port; None for all that comes in from outside.

    Raises:
        ValueError: one of them is neither.
    """

    def __init__(self, hosts: Collection[str] | None = None) -> None:
        """Judge none yet."""
        self._hosts = None if hosts is None else frozenset(map(normalize_host, hosts))

    def admits(self, own_host: str, header: str) -> bool:
        """Tell whether a request is served.

        Args:
            own_host: the address of this end of the connection; "" where it is not known.
            header: its Host header; "" where there is none.
        """
        is_local = not own_host or _is_loopback(own_host)
        if self._hosts is None and not is_local:
            return True
        host = _read_host(header)
        return (is_local and _is_loopback(host)) or (self._hosts is not None and host in self._hosts)


def _read_host(header: str) -> str:
    """Return the host of a header, without its port; "" where there is none."""
    end = header.rfind("]") + 1 if header.startswith("[") else header.find(":")
    try:
        return normalize_host(header if end < 0 else header[:end])
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


__all__ = ["HostRule"]
