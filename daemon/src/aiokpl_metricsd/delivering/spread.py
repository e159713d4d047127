"""A daemon's name -> how long it holds its exports back, so that a fleet does not export at one instant.

Windows are aligned to the epoch, so every daemon of a fleet closes them at the same moment, and a backend, a
gateway or a NAT that all of them share sees the load of a minute within a second. Each daemon therefore has a
place of its own in the first part of the interval: drawn from its name, so that it stays the same from window
to window, and the distance between two exports is the interval.
"""

from collections.abc import Mapping
from hashlib import sha256
from socket import gethostname
from typing import Final

# Ours: a tenth of a minute spreads a thousand daemons to 170 a second, and nobody looks at a graph of minutes
# for the seconds. More would eat into what SIGTERM leaves for the last window.
DEFAULT_SHARE: Final = 0.1
MAX_DEFAULT_S: Final = 10.0

# In Kubernetes the host's name is the pod's, but for pods on the node's network.
_POD_NAME: Final = "POD_NAME"


def choose_spread(spread_s: float | None, sink: object, interval_s: int) -> float:
    """Return over how many seconds a fleet's exports to the sink's backend are spread.

    Args:
        spread_s: what the operator wants; None leaves it to the sink, which has the attribute `spread` where
            a fleet shares its backend.
        sink: the sink.
        interval_s: the length of the sink's windows.
    """
    if spread_s is not None:
        return spread_s
    return min(interval_s * DEFAULT_SHARE, MAX_DEFAULT_S) if getattr(sink, "spread", False) else 0.0


def choose_hold(spread_s: float, identity: str, sink_name: str) -> float:
    """Return how long the daemon of this identity holds back: in `[0, spread_s)`, always the same."""
    digest = sha256(f"{identity}\0{sink_name}".encode(errors="surrogateescape")).digest()
    return spread_s * int.from_bytes(digest[:6], "big") / 2**48


def find_identity(environ: Mapping[str, str]) -> str:
    """Return what tells this daemon from the others of its fleet."""
    return environ.get(_POD_NAME) or gethostname()


__all__ = ["choose_hold", "choose_spread", "find_identity"]
