"""What a gateway's memory has to hold for each request that waits."""

import asyncio
import contextlib
import functools
import resource
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

import uvloop

from .environment import JOB, KEY, deployment, place_of
from .measurement import Figures, Measurement, Round, Row, Tree
from .usage import processor_seconds, resident_bytes

WAITING = 5000
FIRST = AT_ONCE = 200
BYTES = 30_000

LOOK, IDLE = 0.3, 0.02
"""A gateway that has used less than so many seconds of a processor for so long has nothing to do."""

OK = b"HTTP/1.1 200 "

RUNSYNC = ("POST", "/runsync?wait=300000", JOB)
EVENTS = ("GET", "/stream/{job}", "")
POLL = ("GET", "/job-take/w{number}?gpu=x&wait=80000", "")


@contextlib.contextmanager
def _waiting(tree: Tree) -> Iterator[Round]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, WAITING * 4), hard))

    def once() -> dict[str, Figures]:
        return {
            name: Figures(_bytes_each(tree, *request) / 1000, BYTES / 1000)
            for name, request in {"runsync-waits": RUNSYNC, "stream-waits": EVENTS, "poll-waits": POLL}.items()
        }

    yield once
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _bytes_each(tree: Tree, method: str, path: str, body: str) -> float:
    """In a gateway of its own. The first few wait already when the measuring begins: they show what every one of a kind
    needs together."""
    with deployment(tree) as deployed, deployed.client() as client:
        job = client.post(deployed.at("/run"), content=JOB).json()["id"] if "{job}" in path else ""
        urls = [deployed.at(path.format(job=job, number=number)) for number in range(FIRST + WAITING)]
        return uvloop.run(
            _measured(deployed.gateway, place_of(deployed.url)[1], [_request(method, url, body) for url in urls])
        )


def _request(method: str, url: str, body: str) -> bytes:
    place = urlsplit(url)
    head = f"{method} {place.path}?{place.query} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {KEY}\r\n"
    return f"{head}Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def _measured(gateway: int, port: int, requests: list[bytes]) -> float:
    waiting = await _park(gateway, port, requests[:FIRST])
    before = resident_bytes(gateway)
    waiting += await _park(gateway, port, requests[FIRST:])
    grown = resident_bytes(gateway) - before
    if answered := [one.answer for one in waiting if one.answer and not one.answer.startswith(OK)]:
        raise RuntimeError(f"{len(answered)} did not wait: {answered[0]!r}")
    for one in waiting:
        one.transport.abort()
    return grown / (len(requests) - FIRST)


async def _park(gateway: int, port: int, requests: list[bytes]) -> list["_Waiting"]:
    """Sends them, and returns when the gateway has nothing more to do."""
    loop, waiting = asyncio.get_running_loop(), []
    for at in range(0, len(requests), AT_ONCE):
        opening = (
            loop.create_connection(functools.partial(_Waiting, request), "127.0.0.1", port)
            for request in requests[at : at + AT_ONCE]
        )
        waiting += [protocol for _, protocol in await asyncio.gather(*opening)]
    used, rest = -IDLE, processor_seconds(gateway)
    while rest - used >= IDLE:
        await asyncio.sleep(LOOK)
        used, rest = rest, processor_seconds(gateway)
    return waiting


class _Waiting(asyncio.Protocol):
    """A connection with one request; `answer` is what has come of its answer."""

    transport: asyncio.Transport

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self.transport = cast(asyncio.Transport, transport)  # of uvloop, it is none
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self.answer += data


MEASUREMENTS = [
    Measurement(
        "waiting",
        {
            name: Row(f"memory of each of {WAITING:,} that wait: {what}", "as told", "kB", most=1)
            for name, what in (("runsync-waits", "/runsync"), ("stream-waits", "events"), ("poll-waits", "/job-take"))
        },
        _waiting,
        rounds=1,
    )
]
