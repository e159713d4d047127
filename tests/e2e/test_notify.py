"""The real daemon under a manager that wants to be told, as systemd does."""

import signal
import socket

from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess, can_connect
from tests.support.polling import TIMEOUT_S


def test_ready_reloading_ready_and_stopping_are_told_in_this_order(nursery: Nursery) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(TIMEOUT_S)
        path = nursery.directory / "notify"
        manager.bind(str(path))
        daemon = DaemonProcess(nursery, environ={"NOTIFY_SOCKET": str(path)})
        assert manager.recv(1_000) == b"READY=1"
        assert can_connect(daemon.socket_path)
        # Twice: the first is not the only one.
        for _ in range(2):
            daemon.send_signal(signal.SIGHUP)
            assert manager.recv(1_000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(1_000) == b"READY=1"
        daemon.config_path.write_text("nonsense", encoding="utf-8")
        daemon.send_signal(signal.SIGHUP)
        assert manager.recv(1_000).startswith(b"RELOADING=1")
        # It runs on as before, and systemd must not wait for ever.
        assert manager.recv(1_000) == b"READY=1"
        daemon.send_signal(signal.SIGTERM)
        assert manager.recv(1_000) == b"STOPPING=1"
        assert daemon.wait() == 0
