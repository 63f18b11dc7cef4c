"""The connections to the gateway, kept for the requests to come."""

import asyncio
import functools
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from .. import __version__
from . import Backoff
from .http_connection import Connection, Exchange, Request

if TYPE_CHECKING:
    import ssl

MOST_CONNECTIONS = 64

# So many connections wait for small requests, which are to go at once.
WARM = 2


class Place(NamedTuple):
    """Where a URL leads to. prefix: the path, without a '/' behind."""

    host: str
    port: int
    is_secure: bool
    name: str
    prefix: str

    @classmethod
    def of(cls, url: str) -> "Place":
        """Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the URL of a gateway: that begins with http:// or https://")
        is_secure = parts.scheme == "https"
        name = parts.netloc.rpartition("@")[2]
        return cls(parts.hostname, parts.port or (443 if is_secure else 80), is_secure, name, parts.path.rstrip("/"))


class Pool:
    """Each request gets a connection of its own while it is under way, where there is one. A small one that finds none
    goes behind others that are small, at once; a large one, and one whose answer is held back, waits for a connection,
    and leaves the last `WARM` to the small ones."""

    def __init__(self, url: str, key: str, seconds: float, warm: int = WARM) -> None:
        """
        Args:
            url: under which all requests go.
            key: the worker's, or "".
            seconds: for a connection, and for an answer that is not held back.
            warm: how many connections are to wait for requests.

        Raises:
            ValueError: that is no URL.
        """
        self._place = Place.of(url)
        self._headers = f"Host: {self._place.name}\r\nUser-Agent: runlane/{__version__}\r\n"
        if key:
            self._headers += f"Authorization: Bearer {key}\r\n"
        self._seconds = seconds
        self._warm = warm
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiting: deque[Exchange] = deque()
        self._opening = 0
        self._backoff = Backoff()
        self._pause: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def stands(self) -> bool:
        """Whether a small request would be sent at once."""
        self._drop_stale()
        return bool(self._idle) or self._shortest() is not None

    async def open(self) -> None:
        """Makes the first connection; others follow. Raises OSError."""
        self._put(await self._connect())
        self._grow()

    def send(self, request: Request, behind: Exchange | None = None) -> Exchange:
        """Sends a request, at once if it is small and a connection stands.

        Args:
            behind: an earlier small request that the server has to serve before this one, which is small as well.
        """
        exchange = Exchange(request, self._encode(request), self._seconds)
        before = behind.connection if behind is not None else None
        if before is not None and before.is_open:
            before.send(exchange)
        else:
            self._dispatch(exchange)
        return exchange

    async def close(self) -> None:
        """Ends all connections: requests under way fail."""
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.cut()
        while self._waiting:
            self._waiting.popleft().fail(ConnectionError("the connections were closed"))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(connection.ended.wait() for connection in self._connections))

    def _encode(self, request: Request) -> list[bytes]:
        head = f"{request.method} {self._place.prefix}{request.path} HTTP/1.1\r\n{self._headers}"
        head += f"Accept: {request.accept}\r\n"
        if request.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(request.body)}\r\n"
        elif request.method == "POST":
            head += "Content-Length: 0\r\n"
        # From Python 3.12 on, an empty part keeps the loop busy as if there were something to send.
        return [head.encode() + b"\r\n", request.body] if request.body else [head.encode() + b"\r\n"]

    # -- who goes where -----------------------------------------------------------------------------------------------

    def _dispatch(self, exchange: Exchange) -> None:
        request = exchange.request
        self._drop_stale()
        if request.is_small:
            connection = self._idle.pop() if self._idle else self._shortest()
        else:
            connection = self._idle.pop() if len(self._idle) > self._warm else None
        if connection is not None:
            connection.send(exchange)
        elif request.is_small and not request.repeats:
            exchange.fail(ConnectionError("there is no connection"))
        else:
            self._waiting.append(exchange)
        self._grow()

    def _drop_stale(self) -> None:
        """Lets go what has ended, so that the next to be used stands."""
        while self._idle and not self._idle[-1].stands:
            self._idle.pop().cut()

    def _shortest(self) -> Connection | None:
        """Where a small request would be answered soonest, behind others."""
        busy = [connection for connection in self._connections if connection.takes_more]
        return min(busy, key=lambda connection: connection.depth, default=None)

    def _put(self, connection: Connection) -> None:
        """The connection is free."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.answer.done():
                connection.send(exchange)
                return
        self._idle.append(connection)

    def _on_free(self, connection: Connection) -> None:
        self._backoff.reset()
        self._put(connection)

    def _on_lost(self, connection: Connection, lost: list[Exchange], error: Exception) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        for exchange in lost:
            # The server may have ended a connection that was idle; and what it has executed may be executed again.
            if exchange.request.repeats and not exchange.was_repeated and not self._is_closed:
                exchange.was_repeated = True
                if not exchange.answer.done():
                    self._dispatch(exchange)
            else:
                exchange.fail(error)
        self._grow_later()

    # -- connections --------------------------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Begins to make the connections that are missing."""
        missing = len(self._waiting) - self._opening
        if self._pause is None:
            missing += max(0, self._warm - len(self._idle))
        room = MOST_CONNECTIONS - len(self._connections) - self._opening
        for _ in range(0 if self._is_closed else min(missing, room)):
            self._opening += 1
            self._begin(self._open_another())

    def _grow_later(self) -> None:
        """After a pause, since the server may be away."""
        if self._pause is None and not self._is_closed:
            self._pause = asyncio.get_running_loop().call_later(self._backoff.next(), self._end_pause)
        self._grow()

    def _end_pause(self) -> None:
        self._pause = None
        self._grow()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_another(self) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            self._opening -= 1
            if self._waiting:
                self._waiting.popleft().fail(error)
            self._grow_later()
        else:
            self._opening -= 1
            self._put(connection)

    async def _connect(self) -> Connection:
        place = self._place
        try:
            async with asyncio.timeout(self._seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._on_free, self._on_lost),
                    place.host,
                    place.port,
                    ssl=_trust() if place.is_secure else None,
                )
        except TimeoutError:
            raise TimeoutError(f"no connection within {self._seconds:g} s") from None
        except UnicodeError as error:
            raise OSError(f"{place.host} is no name of a machine: {error}") from None
        if not connection.is_open:
            raise ConnectionError("the connection was closed")
        self._connections.add(connection)
        return connection


@functools.cache
def _trust() -> "ssl.SSLContext":
    """The authorities that this machine trusts, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    import ssl

    return ssl.create_default_context()
