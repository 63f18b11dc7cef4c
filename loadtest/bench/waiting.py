"""What a gateway's memory has to hold for each request that waits."""

import asyncio
import contextlib
import functools
import resource
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

from .environment import JOB, KEY, NotMeasuredError, deployment, place_of
from .measurement import Figures, Measurement, Round, Row, Tree
from .openai_streams import LAST_PART
from .usage import connections, processor_seconds, resident_bytes

WAITING = 5000
FIRST = AT_ONCE = 200
BYTES = 30_000

LOOK, IDLE = 0.3, 0.02
"""A gateway that has used less than so many seconds of a processor for so long has nothing to do."""

OK = b"HTTP/1.1 200 "


class Kind(NamedTuple):
    """Requests that wait. is_stream: their answers have begun meanwhile, else nothing comes of them."""

    method: str
    path: str
    body: str = ""
    is_stream: bool = False


RUNSYNC = Kind("POST", "/runsync?wait=300000", JOB)
EVENTS = Kind("GET", "/stream/{job}", is_stream=True)
POLL = Kind("GET", "/job-take/w{number}?gpu=x&wait=80000")


@contextlib.contextmanager
def _waiting(tree: Tree) -> Iterator[Round]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, WAITING * 4), hard))

    def once() -> dict[str, Figures]:
        return {
            name: Figures(_bytes_each(tree, kind) / 1000, BYTES / 1000)
            for name, kind in {"runsync-waits": RUNSYNC, "stream-waits": EVENTS, "poll-waits": POLL}.items()
        }

    try:
        yield once
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _bytes_each(tree: Tree, kind: Kind) -> float:
    """In a gateway of its own. The first few wait already when the measuring begins: they show what every one of a kind
    needs together."""
    with deployment(tree) as deployed, deployed.client() as client:
        job = client.post(deployed.at("/run"), content=JOB).json()["id"] if "{job}" in kind.path else ""
        urls = [deployed.at(kind.path.format(job=job, number=number)) for number in range(FIRST + WAITING)]
        requests = [functools.partial(_Waiting, _request(kind, url), kind.is_stream) for url in urls]
        return uvloop.run(_measured(deployed.gateway, place_of(deployed.url)[1], requests))


def _request(kind: Kind, url: str) -> bytes:
    place = urlsplit(url)
    line = f"{kind.method} {place.path}?{place.query} HTTP/1.1\r\n"
    headers = f"Host: {place.netloc}\r\nAuthorization: Bearer {KEY}\r\nAccept: text/event-stream\r\n"
    return f"{line}{headers}Content-Length: {len(kind.body)}\r\n\r\n{kind.body}".encode()


async def _measured(gateway: int, port: int, requests: Sequence[Callable[[], "_Waiting"]]) -> float:
    waiting = await _park(gateway, port, requests[:FIRST])
    before = resident_bytes(gateway)
    waiting += await _park(gateway, port, requests[FIRST:])
    grown = resident_bytes(gateway) - before
    try:
        _check_all_wait(gateway, port, waiting)
    finally:
        for one in waiting:
            one.transport.abort()
    return grown / (len(requests) - FIRST)


async def _park(gateway: int, port: int, requests: Sequence[Callable[[], "_Waiting"]]) -> list["_Waiting"]:
    """Sends them, and returns when the gateway has nothing more to do."""
    loop, waiting = asyncio.get_running_loop(), []
    for at in range(0, len(requests), AT_ONCE):
        opening = (loop.create_connection(request, "127.0.0.1", port) for request in requests[at : at + AT_ONCE])
        waiting += [protocol for _, protocol in await asyncio.gather(*opening)]
    used, rest = -IDLE, processor_seconds(gateway)
    while rest - used >= IDLE:
        await asyncio.sleep(LOOK)
        used, rest = rest, processor_seconds(gateway)
    return waiting


def _check_all_wait(gateway: int, port: int, waiting: list["_Waiting"]) -> None:
    """One that was answered or cut off takes no memory, and would make the others look cheap.

    Raises:
        NotMeasuredError: some do not wait, or the gateway does not have the connections of all.
    """
    if others := [one for one in waiting if not one.waits]:
        lost = sum(one.is_lost for one in others)
        answers = sorted({one.answer.partition(b"\r\n")[0] for one in others})
        raise NotMeasuredError(
            f"{len(others)} of {len(waiting)} did not wait, {lost} of which lost their connections; their "
            f"answers begin with {answers}"
        )
    if (open := connections(gateway, port)) < len(waiting):
        raise NotMeasuredError(f"the gateway has {open} connections for {len(waiting)} requests that wait")


class _Waiting(asyncio.Protocol):
    """A connection with one request; `answer` is what has come of its answer."""

    transport: asyncio.Transport

    def __init__(self, request: bytes, is_stream: bool) -> None:
        self._request = request
        self._is_stream = is_stream
        self.answer = b""
        self.is_lost = False

    @property
    def waits(self) -> bool:
        """Whether its connection is there, without an answer or with one that has begun, as is its kind."""
        if self._is_stream:
            return not self.is_lost and self.answer.startswith(OK) and not self.answer.endswith(LAST_PART)
        return not self.is_lost and not self.answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self.transport = cast(asyncio.Transport, transport)  # of uvloop, it is none
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self.answer += data

    def connection_lost(self, _error: Exception | None) -> None:
        """Of asyncio."""
        self.is_lost = True


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
