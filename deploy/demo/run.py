"""The daemon on its embedded default, and a producer that behaves like a service which writes to Kinesis.

Both run until Ctrl-C. The socket is in a directory of its own, so that nothing else on the machine is
touched.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PRODUCER = Path(__file__).with_name("producer.py")

# How long the daemon may take to listen before something is wrong with it.
START_TIMEOUT_S = 15.0


def main() -> int:
    """Run both until the daemon ends or the user stops them; return the daemon's exit status."""
    with tempfile.TemporaryDirectory(prefix="metricsd-demo-") as directory:
        socket_path = Path(directory, "metrics.sock")
        environ = {**os.environ, "AIOKPL_METRICSD_SOCKET": str(socket_path)}
        print("The first window is printed within ten seconds; stop with Ctrl-C.", flush=True)
        # A shell ignores SIGINT for what it starts in the background, and children inherit that.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        # In a session of their own, Ctrl-C does not reach them: each is told once, the producer first, so
        # that the daemon still takes its last events.
        daemon = _start("-m", "aiokpl_metricsd", environ=environ)
        producer = None
        with suppress(KeyboardInterrupt):
            _wait_until_listening(socket_path, daemon)
            producer = _start(str(PRODUCER), environ=environ)
            daemon.wait()
        with suppress(KeyboardInterrupt):
            if producer is not None:
                producer.send_signal(signal.SIGINT)
                producer.wait()
            daemon.send_signal(signal.SIGINT)
            daemon.wait()
        return daemon.returncode if daemon.returncode is not None else 0


def _start(*arguments: str, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *arguments], env=environ, start_new_session=True)


def _wait_until_listening(socket_path: Path, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not socket_path.exists() and daemon.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
