"""Event streams through the OpenAI route, and the same streams asked of their server directly, by the same client.

The server sends its tokens as fast as it can, each in a piece of its own. The client is a bare connection that looks
for nothing but the begin and the end, so that neither is what is measured.
"""

import asyncio
import sys
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import orjson
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from .environment import place_of

EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" token"}}]}\n\n'
END = b"data: [DONE]\n\n"

BEGIN = EVENT[:8]
LAST_PART = b"\r\n0\r\n\r\n"  # of a response in parts: RFC 9112, section 7.1


class Origin(NamedTuple):
    """Where to ask for streams: the URL before /v1, and the key."""

    url: str
    key: str


def tokens_per_second(origin: Origin, streams: int, tokens: int) -> float:
    """Asks for so many streams at once, of so many tokens each, and reads them to their ends."""
    return uvloop.run(_tokens_per_second(origin, streams, tokens))


def first_bytes(origins: list[Origin], count: int, tokens: int) -> list[list[float]]:
    """Seconds from the request to the first byte of the text, for one stream after the other, asked of each in turn."""
    return uvloop.run(_first_bytes(origins, count, tokens))


async def _tokens_per_second(origin: Origin, streams: int, tokens: int) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(_read(origin, tokens) for _ in range(streams)))
    return streams * tokens / (time.perf_counter() - began)


async def _first_bytes(origins: list[Origin], count: int, tokens: int) -> list[list[float]]:
    found: list[list[float]] = [[] for _ in origins]
    for _ in range(count):
        for times, origin in zip(found, origins, strict=True):
            times.append(await _read(origin, tokens))
    return found


async def _read(origin: Origin, tokens: int) -> float:
    """Seconds from the request to the first byte of the text of one stream, once it was read to its end."""
    url = urlsplit(origin.url)
    body = orjson.dumps({"model": "m", "messages": [], "stream": True, "max_tokens": tokens})
    head = (
        f"POST {url.path}/v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {origin.key}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(lambda: _Reader(tokens * len(EVENT)), *place_of(origin.url))
    began = time.perf_counter()
    transport.write(head.encode() + body)
    first = await reader.ended
    transport.close()
    return first - began


class _Reader(asyncio.Protocol):
    """Reads one stream of at least so many bytes. `ended` gets the time of the first byte of its text."""

    def __init__(self, least: int) -> None:
        self.ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._least = least
        self._size = 0
        self._tail = b""
        self._first = 0.0

    def data_received(self, data: bytes) -> None:
        """Of asyncio: a part of the response came."""
        self._size += len(data)
        self._tail = self._tail[-len(LAST_PART) :] + data
        if not self._first and BEGIN in self._tail:
            self._first = time.perf_counter()
        if self._tail.endswith(LAST_PART) and self._size > self._least:
            self.ended.set_result(self._first)

    def connection_lost(self, _error: Exception | None) -> None:
        """Of asyncio: the connection is gone."""
        if not self.ended.done():
            self.ended.set_exception(RuntimeError(f"a stream broke off after {self._size} bytes: {self._tail!r}"))


async def upstream(_: Scope, receive: Receive, send: Send) -> None:
    """The server. A request without a body, such as one for its health, gets no tokens."""
    body = (await receive())["body"]
    tokens = orjson.loads(body)["max_tokens"] if body else 0
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _number in range(tokens):
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        await asyncio.sleep(0)  # else all of them would leave in one piece
    await send({"type": "http.response.body", "body": END})


if __name__ == "__main__":
    uvicorn.run(upstream, port=int(sys.argv[1]), log_level="warning", lifespan="off")
