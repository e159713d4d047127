"""Process -> daemon: configuration, socket, then everything that is slow to import; exit statuses at the end.

The socket comes first because producers wait for it: from then on the kernel queues what they send, while
the event loop and the sinks are still being imported.
"""

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal, cast

from aiokpl_metrics_protocol import socket_candidates
from aiokpl_metricsd.config import Configuration, load
from aiokpl_metricsd.errors import ConfigurationError, SocketInUseError, StateInUseError
from aiokpl_metricsd.inheritance import inherit
from aiokpl_metricsd.listener import Listener, listen
from aiokpl_metricsd.log import configure, hide, log_fault
from aiokpl_metricsd.serving.door import Doors, open_doors

if TYPE_CHECKING:
    import asyncio

    from aiokpl_metricsd.daemon import Daemon
    from aiokpl_metricsd.state import State

EXIT_OK = 0
EXIT_IN_USE = 1
EXIT_CONFIGURATION = 2

# The decoder makes a list of columns for each datagram, never a cycle: at the default of 700 the
# collector runs at every second datagram and takes a tenth of the daemon's time (measured).
_GC_THRESHOLD = 50_000

_log = logging.getLogger("aiokpl_metricsd")


def serve(config: str | None = None, log_format: str = "text", log_level: str = "info") -> int:
    """Run the daemon of this process until it is told to stop. Return the exit status.

    Args:
        config: path of the configuration file; None for the embedded default.
        log_format: "text" or "json".
        log_level: "debug", "info", "warning" or "error".
    """
    configure(cast("Literal['text', 'json']", log_format), log_level, sys.stderr)
    # Through the log, which shows no secret.
    sys.excepthook = lambda _kind, error, _traceback: log_fault(error)
    logging.captureWarnings(True)  # noqa: FBT003 - its only argument
    try:
        configuration = _load(config)
        ingest = configuration.ingest
        candidates = socket_candidates() if ingest.socket is None else (ingest.socket,)
        # Where nothing outlives the daemon, an acknowledgement would mean nothing.
        lane = configuration.state_dir is not None
        credentials = ingest.lists_senders
        listener = inherit(os.environ, ingest.socket, lane=lane, credentials=credentials) or listen(
            candidates, mode=ingest.mode_bits, group=ingest.group, lane=lane, credentials=credentials
        )
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    except SocketInUseError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_IN_USE
    try:
        http = configuration.http
        doors = open_doors(listener.path, http.listen, http.hosts)
    except (ConfigurationError, SocketInUseError) as error:
        listener.close()
        sys.stderr.write(f"{error}\n")
        return EXIT_IN_USE if isinstance(error, SocketInUseError) else EXIT_CONFIGURATION
    # From here on something may have been accepted: a signal that comes before the event loop waits for it.
    early: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: early.append(received))
    try:
        return _run(configuration, listener, doors, early, lambda: _load(config))
    except (ConfigurationError, StateInUseError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_IN_USE if isinstance(error, StateInUseError) else EXIT_CONFIGURATION
    finally:
        doors.close()
        listener.close()


def _load(config: str | None) -> Configuration:
    """Read the configuration, have the log show none of its secrets, and say what is to be looked after."""
    configuration = load(config, os.environ)
    for sink in configuration.sinks.values():
        hide(sink.hidden)
        for warning in sink.warnings:
            _log.warning(warning)
    return configuration


def _run(
    configuration: Configuration,
    listener: Listener,
    doors: Doors,
    early: list[int],
    load_again: Callable[[], Configuration],
) -> int:
    import asyncio

    import uvloop

    from aiokpl_metricsd.daemon import Daemon

    state = _open_state(configuration)
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        daemon = Daemon(configuration, listener, doors=doors, state=state)
        runner.run(_run_daemon(daemon, early, load_again))
        if _is_held_up(asyncio.all_tasks(runner.get_loop())):
            # All is delivered or counted as lost by now. What still runs is a sink's task or thread that
            # does not let itself be ended; to wait for it would use up the time that the process is given
            # before SIGKILL.
            sys.stdout.flush()
            logging.shutdown()
            os._exit(EXIT_OK)
    return EXIT_OK


def _open_state(configuration: Configuration) -> "State | None":
    if configuration.state_dir is None:
        return None
    # SQLite takes 5 ms to import, which a daemon without state need not spend.
    from aiokpl_metricsd.state import open_state

    return open_state(
        configuration.state_dir,
        outbox_max_bytes=configuration.outbox_max_bytes,
        fsync=configuration.fsync,
    )


def _is_held_up(tasks: "Collection[asyncio.Task[object]]") -> bool:
    """Tell whether a task or a thread would keep the process from ending."""
    import threading

    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    return bool(tasks) or any(not thread.daemon for thread in others)


async def _run_daemon(daemon: "Daemon", early: list[int], load_again: Callable[[], Configuration]) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload, load_again)
    if early:
        daemon.stop()
    # What is loaded by now stays: the collector need not look at it again.
    gc.freeze()
    await daemon.run()


__all__ = ["EXIT_CONFIGURATION", "EXIT_IN_USE", "EXIT_OK", "serve"]
