"""A Kinesis emulator in the test's own process."""

from collections.abc import Generator
from contextlib import contextmanager

import botocore.session
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

REGION = "eu-central-1"

# What a client of it needs in its environment.
ENVIRON = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_ACCESS_KEY_ID": "fake",
    "AWS_SECRET_ACCESS_KEY": "fake",
    "AWS_DEFAULT_REGION": REGION,
}


@contextmanager
def serve_kinesis(stream: str, shards: int) -> Generator[tuple[str, dict[str, str]], None, None]:
    """Serve one stream; yield the emulator's address, and the variables that its clients need."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = botocore.session.get_session().create_client(
            "kinesis",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=ENVIRON["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ENVIRON["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_stream(StreamName=stream, ShardCount=shards)
        try:
            yield endpoint, dict(ENVIRON)
        finally:
            # The emulator's streams are the process's, not the server's.
            client.delete_stream(StreamName=stream)
            client.close()
    finally:
        server.stop()


__all__ = ["ENVIRON", "REGION", "serve_kinesis"]
