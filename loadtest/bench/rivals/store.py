"""The store of the measurement."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import redis

from gateway.embedded import EmbeddedStore
from loadtest.bench.environment import processors, started_on


@contextlib.contextmanager
def tcp_store() -> Iterator[str]:
    """An embedded store with a port on loopback, since not all libraries take a Unix socket: its URL.

    It has the processors that the worker does not have.
    """
    with tempfile.TemporaryDirectory(prefix="runlane-rivals-") as folder:
        with started_on(processors()[1]):
            running = EmbeddedStore(Path(folder) / "store")
        try:
            port = _free_port()
            with redis.Redis.from_url(running.url) as client:
                client.config_set("bind", "127.0.0.1")
                client.config_set("port", port)
            yield f"redis://:{urlsplit(running.url).password}@127.0.0.1:{port}"
        finally:
            running.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
