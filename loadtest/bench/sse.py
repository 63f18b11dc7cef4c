"""A client that reads streams and looks for nothing but what is measured, so that it is not what is measured."""

import asyncio
import time
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import orjson

from .chunks import BEGIN, SENT
from .environment import KEY, Deployment, place_of

HEAD_END = b"\r\n\r\n"
LAST_PART = b"\r\n0\r\n\r\n"  # of a response in parts: RFC 9112, section 7.1


class Streamed(NamedTuple):
    """Seconds to the first chunk and to the end, from the first request on, and of paced chunks how late each was."""

    first: float
    seconds: float
    delays: list[float]


async def through_job(deployed: Deployment, chunks: int, every: float | None = None) -> Streamed:
    """Submits a job and reads its stream to the end.

    Raises:
        RuntimeError: another number of chunks came than was asked for.
    """
    connection = await _Connection.open(deployed.url)
    began = time.perf_counter()
    job = orjson.loads(await connection.post(deployed.at("/run"), {"input": {"chunks": chunks, "every": every}}))
    return await connection.stream(deployed.at(f"/stream/{job['id']}"), chunks, began, takes_delays=every is not None)


async def directly(url: str, chunks: int) -> Streamed:
    """Reads the same from the server that sends it directly."""
    connection = await _Connection.open(url)
    return await connection.stream(f"{url}/stream?chunks={chunks}", chunks, time.perf_counter())


class _Connection(asyncio.Protocol):
    """One connection, one request after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._begin(False)

    @classmethod
    async def open(cls, url: str) -> "_Connection":
        """Connects."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, *place_of(url))
        return connection

    async def post(self, url: str, body: object) -> bytes:
        """The body of an answer of known length."""
        self._begin(False)
        content = orjson.dumps(body)
        self._send("POST", url, b"Content-Length: %d\r\n" % len(content), content)
        await self._ended
        return self._received.partition(HEAD_END)[2]

    async def stream(self, url: str, chunks: int, began: float, takes_delays: bool = False) -> Streamed:
        """Reads events to the end, and closes the connection."""
        self._begin(True, takes_delays)
        self._send("GET", url, b"Accept: text/event-stream\r\n", b"")
        await self._ended
        ended = time.perf_counter()
        if self._transport is not None:
            self._transport.close()
        if self._chunks != chunks:
            raise RuntimeError(f"{self._chunks} chunks came of {chunks}: {self._received[-300:]!r}")
        return Streamed(self._first - began, ended - began, self._delays)

    def _begin(self, streams: bool, takes_delays: bool = False) -> None:
        self._streams = streams
        self._takes_delays = takes_delays
        self._received = self._tail = b""
        self._chunks = 0
        self._first = 0.0
        self._delays: list[float] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _send(self, method: str, url: str, headers: bytes, body: bytes) -> None:
        place = urlsplit(url)
        path = f"{place.path}?{place.query}" if place.query else place.path
        head = f"{method} {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {KEY}\r\n"
        assert self._transport is not None
        self._transport.write(head.encode() + headers + b"\r\n" + body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # of uvloop, it is none

    def data_received(self, data: bytes) -> None:
        """Of asyncio: a part of an answer came."""
        if self._streams:
            self._read_events(data)
            return
        self._received += data
        head, _, body = self._received.partition(HEAD_END)
        _, _, length = head.lower().partition(b"content-length: ")
        if length and len(body) == int(length.split(b"\r\n")[0]):
            self._ended.set_result(None)

    def _read_events(self, data: bytes) -> None:
        """What is left of the data before is the begin of an event that is not complete."""
        received = self._received + data
        complete, _, self._received = received.rpartition(HEAD_END)
        self._tail = (self._tail + data)[-len(LAST_PART) :]
        found = complete.count(BEGIN)
        if found and not self._first:
            self._first = time.perf_counter()
        self._chunks += found
        if self._takes_delays:
            now = time.time()
            self._delays += [now - float(sent) for sent in SENT.findall(complete)]
        if self._tail == LAST_PART and not self._ended.done():
            self._ended.set_result(None)

    def connection_lost(self, _error: Exception | None) -> None:
        """Of asyncio: the connection is gone."""
        if not self._ended.done():
            self._ended.set_exception(RuntimeError(f"the answer broke off: {self._received[-300:]!r}"))
