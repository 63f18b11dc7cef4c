"""Readers of a stream that do not read."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from gateway.engine.wakeups import MOST_WAITING_BYTES
from loadtest.bench.usage import resident_bytes

from ..gateway.clients import API_KEY
from .client import Client, Reader
from .deployment import Node
from .trial import Trial

READERS = 200
CHUNKS = 256
BYTES_OF_CHUNK = 16 * 1024
RECEIVE_BUFFER = 4096

MOST_GROWTH = READERS * (MOST_WAITING_BYTES + 512 * 1024)
"""What a reader may leave unread in the gateway, by its own limit, and as much again for a page that was read from the
store, the buffer of its connection and its tasks. The stream is nearly three times as long, so a gateway that keeps the
whole of it for each reader is over this."""

LONGEST_WAIT = 5.0
"""Seconds that another client of the same gateway may wait meanwhile, on a machine with other things to do. A gateway
that waited for the readers would have it wait for as long as they do not read."""


class SlowReader:
    """Asks for a job's events and leaves them in the socket, of which little fits on this side."""

    def __init__(self, node: Node, client: Client, job: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.connect(("127.0.0.1", node.port))
        path = f"{client.path}/stream/{job}"
        headers = f"Host: {node.url}\r\nAccept: text/event-stream\r\nAuthorization: Bearer {API_KEY}\r\n"
        self._socket.sendall(f"GET {path} HTTP/1.1\r\n{headers}\r\n".encode())
        self._socket.settimeout(15)

    def read(self, chunks: int) -> Reader:
        """Reads at least so many chunks, and hangs up."""
        reader, rest = Reader(), b""
        with self._socket:
            while len(reader.chunks) < chunks:
                *lines, rest = (rest + self._socket.recv(RECEIVE_BUFFER)).split(b"\r\n")
                for line in lines:
                    reader.feed(line.decode())
        return reader

    def close(self) -> None:
        self._socket.close()


class Watcher:
    """What a client of a gateway sees of it over a while."""

    def __init__(self, node: Node, client: Client) -> None:
        assert node.process is not None
        self._pid = node.process.pid
        self._client = client
        self._before = resident_bytes(self._pid)
        self.most_growth = 0
        self.longest_wait = 0.0

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            asked = time.monotonic()
            await self._client.health()
            self.longest_wait = max(self.longest_wait, time.monotonic() - asked)
            self.most_growth = max(self.most_growth, resident_bytes(self._pid) - self._before)
            await asyncio.sleep(0.02)


async def test_cost_their_gateway_and_its_other_clients_little(trial: Trial) -> None:
    node = trial.deployment.nodes[0]
    client = trial.make_client(node)
    await trial.start_worker(node, "generator")
    job = await client.run(chunks=CHUNKS, size=BYTES_OF_CHUNK, pause=0.003, until=trial.gate)
    good_reader = asyncio.create_task(client.follow(job))
    watcher = Watcher(node, client)
    with ExitStack() as readers:
        async with watcher.watching():
            for _ in range(READERS):
                readers.callback(SlowReader(node, client, job).close)
            await trial.written(job, CHUNKS - 1)
            await client.health()  # behind all that the readers have had their gateway ask the store
            trial.open_gate()
            assert len(await good_reader) == CHUNKS
    await trial.settle()
    assert watcher.longest_wait < LONGEST_WAIT
    assert watcher.most_growth < MOST_GROWTH


async def test_that_were_dropped_resume(trial: Trial) -> None:
    node = trial.deployment.nodes[0]
    client = trial.make_client(node)
    await trial.start_worker(node, "generator")
    job = await client.run(chunks=CHUNKS, size=BYTES_OF_CHUNK, until=trial.gate)
    slow = [SlowReader(node, client, job) for _ in range(5)]
    await trial.written(job, CHUNKS - 1)
    readers = [reader.read(2 * number) for number, reader in enumerate(slow)]
    assert not any(reader.ended for reader in readers)
    following = [asyncio.create_task(client.follow(job, reader)) for reader in readers]
    trial.open_gate()
    for task in following:
        assert await task == [(1, number) for number in range(1, CHUNKS + 1)]
    await trial.settle()
