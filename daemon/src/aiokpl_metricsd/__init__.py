"""A sidecar that aggregates metric events from a local socket and hands the windows to sinks.

Reading order, from socket to sink: `listener` and `receiver` (socket -> datagrams), `decoder` (datagram
-> columns), `aggregator` with `registry`, `windows`, `statistics`, `histogram` and `live` (columns ->
open windows), `clock` (time -> closed windows), `selection` (what one sink sees of a window), `delivery`
(the only retry loop), `sinks` (snapshots -> backend). `daemon` is the composition root, the only module
that knows the steps; `metrics` is the in-process library.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
