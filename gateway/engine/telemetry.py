"""What workers tell besides their signs of life: the figures of their machines, and the newest lines that they printed.

Whoever follows a log is served from a copy in this process, which is brought up to date now and then for as long as
somebody reads it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from ..errors import NotFound, Unavailable
from . import keys
from .batching import Batcher
from .roster import Metrics
from .tasks import end

MOST_LINES = 500
"""As functions/logs.lua keeps them."""

SECONDS_BETWEEN_LOOKS = 0.5


LineId = tuple[int, int]


class LogLine(msgspec.Struct, frozen=True):
    """`id`: its place in the log; `at`: when it was printed, in ms since the epoch by the store's clock; `stream`:
    stdout or stderr."""

    id: LineId
    at: int
    stream: str
    text: str


class Telemetry:
    """What the workers of all endpoints tell, and what they told."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._copies: dict[tuple[str, str], _Copy] = {}
        self._followings: set[Following] = set()
        self._draining = False

    async def tell(
        self, endpoint: str, worker: str, metrics: Metrics | None, run: str, first: int, lines: Sequence[Any]
    ) -> None:
        """A worker tells.

        Args:
            endpoint: the endpoint's name.
            worker: the worker's id.
            metrics: None when there are no new ones.
            run: a word for this process of the worker.
            first: the number of the first line among all of that process; what it has told before is left out.
            lines: (age in ms, stdout or stderr, text) of each.

        Raises:
            NotFound: no such endpoint.
        """
        figures = b"" if metrics is None else msgspec.json.encode(metrics)
        await self._call(endpoint, "tell", worker, figures, run, first, *(value for line in lines for value in line))

    async def lines(self, endpoint: str, worker: str, count: int) -> list[LogLine]:
        """The newest lines, oldest first.

        Raises:
            NotFound: no such endpoint, or no such worker.
        """
        return await self._lines(endpoint, worker, "", count)

    @contextlib.contextmanager
    def following(self, endpoint: str, worker: str, after: LineId | None, count: int) -> "Iterator[Following]":
        """Someone reads the lines after the one with the id `after`, or the newest `count`, and then what comes."""
        place = endpoint, worker
        if place not in self._copies:
            self._copies[place] = _Copy(self, *place)
        copy = self._copies[place]
        copy.readers += 1
        following = Following(copy, after, count)
        self._followings.add(following)
        if self._draining:
            following.end()
        try:
            yield following
        finally:
            self._followings.discard(following)
            copy.readers -= 1
            if not copy.readers:
                del self._copies[place]
                copy.looking.cancel()

    def drain(self) -> None:
        """Ends all following, now and from now on."""
        self._draining = True
        for following in self._followings:
            following.end()

    async def close(self) -> None:
        """Ends what runs in the background."""
        for copy in list(self._copies.values()):
            await end(copy.looking)

    async def _lines(self, endpoint: str, worker: str, after: str, count: int) -> list[LogLine]:
        reply = await self._call(endpoint, "log", worker, after, count)
        if reply is None:
            raise NotFound("no such worker")
        rows = zip(reply[::4], reply[1::4], reply[2::4], reply[3::4], strict=True)
        return [LogLine(_id(id), int(at), _text(stream), _text(text)) for id, at, stream, text in rows]

    async def _call(self, endpoint: str, function: str, *arguments: str | bytes | int) -> Any:
        try:
            return await self._batcher.call(keys.base(endpoint), function, *arguments)
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                raise NotFound(f"no endpoint {keys.id_of(endpoint)}") from None
            raise


class Following:
    """One who reads a log. A reader that is slower than the worker misses lines."""

    def __init__(self, copy: "_Copy", after: LineId | None, count: int) -> None:
        self._copy = copy
        self._after = after
        self._count = count
        self._ended = False

    def end(self) -> None:
        """Nothing more is read: `next` returns None."""
        self._ended = True
        self._copy.wake()

    async def next(self, seconds: float) -> list[LogLine] | None:
        """The lines that came next; empty when none did within the time, None at the end."""
        found: list[LogLine] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._copy.ready.wait()
                while not self._ended and not (found := self._new()):
                    await self._copy.news.wait()
        if self._ended:
            return None
        if found:
            self._after = found[-1].id
        return found

    def _new(self) -> list[LogLine]:
        return self._copy.after((0, 0))[-self._count :] if self._after is None else self._copy.after(self._after)


class _Copy:
    """The newest lines of one log, for all who follow it here. `ready`: it was looked at; `news`: set with the next
    change, and then another one."""

    def __init__(self, telemetry: Telemetry, endpoint: str, worker: str) -> None:
        self.readers = 0
        self.ready = asyncio.Event()
        self.news = asyncio.Event()
        self._telemetry = telemetry
        self._place = endpoint, worker
        self._kept: deque[LogLine] = deque(maxlen=MOST_LINES)
        self.looking = asyncio.get_running_loop().create_task(self._look())

    def after(self, id: LineId) -> list[LogLine]:
        """The lines behind that one."""
        return [line for line in self._kept if line.id > id]

    def wake(self) -> None:
        """Has all readers look."""
        self.ready.set()
        self.news.set()
        self.news = asyncio.Event()

    async def _look(self) -> None:
        while True:
            # Else the readers wait: for the store, for the worker, or in vain, until they go.
            with contextlib.suppress(Unavailable, NotFound, ResponseError):
                newest = "{}-{}".format(*self._kept[-1].id) if self._kept else ""
                found = await self._telemetry._lines(*self._place, newest, MOST_LINES)
                self._kept.extend(found)
                if found or not self.ready.is_set():
                    self.wake()
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


def _id(text: bytes) -> LineId:
    ms, _, number = text.partition(b"-")
    return int(ms), int(number)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
