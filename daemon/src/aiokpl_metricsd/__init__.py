"""A sidecar that aggregates metric events from a local socket and hands the windows to sinks.

Reading order, from socket to sink: `listener` and `receiver` (sockets -> datagrams; what it reads in
`receiving`), `lanes` (connections -> frames that are acknowledged), `decoder` (datagram -> columns),
`aggregator` (columns -> open windows, live view; its parts in `aggregating`), `tap` (events -> the sinks that
want each), `journal` (decoded frames -> disk), `clock` (time -> closed windows), `checkpoint` (windows, sums
and accounts -> one transaction), `outbox` (what waits, in a database; its parts, and the journal's, in
`storing`), `delivery` (windows -> sinks, the only retry loop; its parts in `delivering`), `sinks` (snapshots
-> backend; what they print in `rendering`).

Around it: `__main__` and `cli` (arguments), `process` (one process's life), `config` (the file; its parts in
`configuring`), `daemon` (the composition root, the only module that knows the steps; what its life is made of
in `running`), `roster` (the sinks, exchanged on reload), `state` (the state directory), `inheritance` and
`notify` (a service manager), `serving` (HTTP), `ledger` (what came in and what became of it).
`inspection` and `estimate` are behind the command `check`, `examining` is behind `doctor`, and `healthcheck`
is a probe.
`metrics` is the in-process library, its parts in `library`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
