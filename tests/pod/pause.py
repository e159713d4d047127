"""What holds a pod together: its network with a loopback, its volumes, and a backend that says nothing.

Run in new network and mount namespaces as `python -m tests.pod.pause DIRECTORY PORT GROUP`; it prints a line
when all is there, and then waits to be ended.
"""

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

# netdevice(7) and linux/sockios.h, read 2026-11.
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

# As a kubelet makes an emptyDir of a pod with fsGroup: the group's, which files in it inherit.
_MODE = 0o2777


def main(directory: Path, port: int, group: int) -> None:
    """Hold the pod together until the process is ended."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    for name in ("run", "state", "results"):
        volume = directory / name
        volume.mkdir()
        if name == "run":
            command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(volume)]
            subprocess.run(command, check=True)
        os.chown(volume, 0, group)
        volume.chmod(_MODE)
    # The kernel takes the connections; nobody ever reads from them.
    silent = socket.create_server(("127.0.0.1", port), backlog=1024)
    sys.stdout.write("the pod is there\n")
    sys.stdout.flush()
    while silent.fileno() >= 0:
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))


__all__ = ["main"]
