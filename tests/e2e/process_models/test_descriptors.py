"""Descriptors: none is left to a subprocess, and one that somebody closed is never written to again."""

import pytest

from tests.support.models import Models


def test_a_subprocess_gets_no_descriptor_of_the_client_whatever_it_inherits(models: Models) -> None:
    child = models.run(
        '''
import subprocess
code = """
import os, stat
open_ones = [fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{fd}")]
print([fd for fd in open_ones if stat.S_ISSOCK(os.fstat(fd).st_mode)])
"""
command = [sys.executable, "-c", code]

def list_sockets():
    return subprocess.run(command, close_fds=False, capture_output=True, text=True).stdout

assert list_sockets() == "[]\\n"
metrics.put("n")
assert metrics.flush()
assert metrics.statistics().transport == "lane"
assert list_sockets() == "[]\\n"
# Nor does a program that takes this one's place.
metrics.put("n")
assert metrics.flush()
sys.stdout.flush()
os.execv(sys.executable, command)
'''
    )
    assert child.stdout == "[]\n"
    assert models.stop() == {"n": 2}


@pytest.mark.parametrize("kind", ["tcp", "pipe", "file"])
def test_what_takes_the_number_of_a_closed_descriptor_gets_not_one_byte(models: Models, kind: str) -> None:
    models.run(
        """
import socket, tempfile

def open_tcp():
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    server.setblocking(False)
    return [client, listener], lambda: read(server.recv)

def open_pipe():
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    return [writable], lambda: read(lambda size: os.read(readable, size))

def open_file():
    file = tempfile.TemporaryFile(buffering=0)
    return [file], lambda: os.pread(file.fileno(), 100, 0)

def read(receive):
    try:
        return receive(100)
    except BlockingIOError:
        return b""

kind = {"tcp": open_tcp, "pipe": open_pipe, "file": open_file}[sys.argv[1]]
for turn in range(20):
    metrics.put("n", zone=str(turn % 3))
    assert metrics.flush(20.0)
    ours = metrics._sender._outbound.transport._socket.fileno()
    # In the midst of what the thread does, too.
    metrics.put("n")
    os.closerange(3, 256)
    kept = []
    while True:
        files, read_what_came = kind()
        kept.append((files, read_what_came))
        numbers = [file if isinstance(file, int) else file.fileno() for file in files]
        if max(numbers) >= ours:
            break
    metrics.put("n")
    assert metrics.flush(20.0)
    assert all(read_what_came() == b"" for _, read_what_came in kept)
    assert all(os.fstat(number) for number in numbers)
    # Before their numbers are others', too: a socket of Python's closes whatever has its number.
    for files, read_what_came in kept:
        for file in files:
            os.close(file) if isinstance(file, int) else file.close()
    del kept, files, file, read_what_came
""",
        kind,
    )
    assert models.stop() == {"n": 60}
