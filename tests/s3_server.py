"""S3's protocol on this machine (moto), with one bucket, for as long as a test wants it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec

BUCKET = "liftoff"
KEY, SECRET = "test-key", "test-secret-of-the-store"


@dataclass
class S3:
    """`environment`: what a process needs to use it."""

    port: int
    environment: dict[str, str]
    root: str = f"s3://{BUCKET}/store"
    _server: object = None

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Nobody answers at its address any more."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        forget_connections()

    def make_bucket(self) -> None:
        fs = fsspec.filesystem(
            "s3", key=KEY, secret=SECRET, endpoint_url=self.environment["AWS_ENDPOINT_URL_S3"], skip_instance_cache=True
        )
        fs.makedirs(BUCKET, exist_ok=True)  # all servers of a process share what they hold


@contextmanager
def s3_server() -> Iterator[S3]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    server = S3(port, environment)
    server.start()
    try:
        server.make_bucket()
        yield server
    finally:
        server.stop()


def forget_connections() -> None:
    """fsspec keeps one connection a process, whatever the environment says since."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
