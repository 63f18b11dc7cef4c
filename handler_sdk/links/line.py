"""One connection to the store, straight from the socket to the parser and on to whoever waits.

redis-py opens it, with all that belongs to that: addresses, TLS, users, Sentinel. What it does around each command from
then on (streams, locks, a task's turn, a timer) takes longer than the store takes to answer, so the socket is taken
over.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError

from ..frames import READ_AT_ONCE

logger = logging.getLogger("runlane.line")

_INCOMPLETE = object()


class Line(asyncio.BufferedProtocol):
    """The connection, from `open` to its loss. It reads into a buffer of its own: for an asyncio.Protocol, a quarter of
    a megabyte is mapped and given back for each read."""

    def __init__(self, writer: asyncio.StreamWriter, on_reply: Callable[[Any], None], on_lost: Callable[[], None]):
        self.is_writable = True
        self._writer = writer  # keeps the transport open
        self._transport: Any = writer.transport
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._buffer = memoryview(bytearray(READ_AT_ONCE))
        self._reader = hiredis.Reader(replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE)

    @classmethod
    async def open(cls, pool: Any, on_reply: Callable[[Any], None], on_lost: Callable[[], None]) -> "Line":
        """Connects as one of the pool's connections would.

        Args:
            pool: redis-py's, with RESP2; it does not count this connection.
            on_reply: gets each reply and each message, in order; an error as an exception.
            on_lost: called once, when the connection is gone for whatever reason.

        Raises:
            RedisError, OSError: it cannot be made.
        """
        connection = pool.make_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        writer = connection._writer
        connection._reader = connection._writer = None
        if writer.transport.is_closing():  # lost in the meantime, so that nobody would tell us
            raise RedisConnectionError("the store closed the connection")
        line = cls(writer, on_reply, on_lost)
        line._transport.set_protocol(line)
        return line

    def write(self, packed: Sequence[bytes | memoryview]) -> None:
        """Sends packed commands. While `is_writable` is false the socket is full, and they take memory."""
        if not self._transport.is_closing():  # else `on_lost` is about to be called
            self._transport.writelines(packed)

    def send(self, *command: Any) -> None:
        """Packs and sends one command."""
        self.write([hiredis.pack_command(cast(Any, command))])

    def cut(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def get_buffer(self, _hint: int) -> memoryview:
        """Of asyncio: where to put what comes in."""
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        """Of asyncio: bytes came in."""
        try:
            self._reader.feed(cast(Any, self._buffer[:count]))
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                self._on_reply(reply)
        except Exception:
            logger.exception("the connection to the store has a fault and is cut")
            self.cut()

    def connection_lost(self, _error: Exception | None) -> None:
        """Of asyncio: the connection is gone."""
        self._on_lost()

    def pause_writing(self) -> None:
        """Of asyncio: the socket is full."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """Of asyncio: the socket has room."""
        self.is_writable = True


class Commands:
    """Commands over one line, none of which waits for the reply to another. The line is made when it is needed, within
    `seconds`, and cut when it gives no reply within as many."""

    def __init__(self, pool: Any, seconds: float) -> None:
        self._pool = pool
        self._seconds = seconds
        self._line: Line | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._under_way: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def execute(self, *command: Any) -> Any:
        """Returns the reply.

        Raises:
            RedisError: the store's error, or the connection's.
            OSError: the store cannot be reached; a TimeoutError among them.
        """
        reply = self.send(*command)
        if reply is None:
            async with asyncio.timeout(self._seconds):
                await self._open()
            reply = self.send(*command)
            if reply is None:
                raise RedisConnectionError("the connection to the store was lost")
        return await reply

    def send(self, *command: Any) -> asyncio.Future[Any] | None:
        """Sends at once and returns what the reply will be, or why there is none; None when there is no line yet."""
        if self._line is None:
            return None
        self._line.send(*command)
        loop = asyncio.get_running_loop()
        reply = loop.create_future()
        self._under_way.append((loop.time() + self._seconds, reply))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._check)
        return reply

    def close(self) -> None:
        """Ends the connection: commands under way fail, and so do those to come."""
        self._closed = True
        if self._line is not None:
            self._line.cut()

    async def _open(self) -> Line:
        async with self._opening:
            if self._line is None and not self._closed:
                self._line = await Line.open(self._pool, self._on_reply, self._on_lost)
            if self._line is None or self._closed:
                self.close()
                raise RedisConnectionError("the connection to the store was closed")
            return self._line

    def _check(self) -> None:
        """One timer for all commands: one for each took longer than to send it."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if self._under_way:
            limit = self._under_way[0][0]
            if limit > loop.time():
                self._timer = loop.call_at(limit, self._check)
            elif self._line is not None:
                self._line.cut()

    def _on_reply(self, reply: Any) -> None:
        _, waiting = self._under_way.popleft()
        if waiting.done():
            return  # whoever asked has gone away
        if isinstance(reply, BaseException):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)

    def _on_lost(self) -> None:
        self._line = None
        for _, waiting in self._under_way:
            if not waiting.done():
                waiting.set_exception(RedisConnectionError("the connection to the store was lost"))
        self._under_way.clear()
