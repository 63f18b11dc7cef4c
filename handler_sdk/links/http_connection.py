"""One HTTP connection to the gateway, straight from the socket to the parser and on to whoever waits.

A request is written to the socket by the call that sends it, before any other turn of the loop. Small ones may follow
each other before the first is answered; the server answers them in order (RFC 9112, 9.3.2).
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import h11

from ..frames import READ_AT_ONCE
from . import PROMPT_BYTES, ROOM_FOR_IDS

# Bytes per second of a request's body that any line should carry.
SLOWEST = 125_000

# A parser has to know what it reads the answer to, and no more than that it was no HEAD.
_ANY_REQUEST = h11.Request(method="GET", target="/", headers=[("Host", "-")])


class WithdrawnError(Exception):
    """Whoever made the request does not want the answer any more."""


class Request(NamedTuple):
    """path: below the gateway's URL, quoted, with its query. wait: for how many seconds the server may hold the answer
    back. repeats: whether it may be sent again when its answer was lost; what is small and may not is sent at once or
    not at all."""

    method: str
    path: str
    body: bytes = b""
    accept: str = "application/json"
    wait: float = 0.0
    repeats: bool = True

    @property
    def is_small(self) -> bool:
        """Whether it keeps the connection for no more than a moment."""
        return not self.wait and len(self.body) <= PROMPT_BYTES + ROOM_FOR_IDS


class Answer(NamedTuple):
    status: int
    body: bytes


class Exchange:
    """A request on its way, and in time its `answer`: an OSError when there is none.

    connection: by which it is under way, if it is. was_repeated: it was sent again by another one.
    """

    def __init__(self, request: Request, data: list[bytes], seconds: float) -> None:
        """
        Args:
            data: what to write.
            seconds: for an answer that is not held back, and between two pieces of one.
        """
        self.request = request
        self.data = data
        self.connection: Connection | None = None
        self.was_repeated = False
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Answer] = self._loop.create_future()
        self._seconds = seconds
        self._timer = self._loop.call_later(seconds + request.wait + len(request.body) / SLOWEST, self._expire)

    def succeed(self, answer: Answer) -> None:
        self._timer.cancel()
        if not self.answer.done():  # else whoever asked has gone away
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        self._timer.cancel()
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # nobody need hear of it

    def withdraw(self) -> None:
        """The answer is not wanted any more: ends the connection, so that the server notices."""
        self._give_up(WithdrawnError())

    def stir(self) -> None:
        """A piece of the answer came."""
        self._timer.cancel()
        self._timer = self._loop.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._give_up(TimeoutError(f"no answer within {self._seconds:g} s"))

    def _give_up(self, error: Exception) -> None:
        self.fail(error)
        if self.connection is not None:
            self.connection.cut()


class Connection(asyncio.BufferedProtocol):
    """From its making to its loss. It reads into a buffer of its own: for an asyncio.Protocol, a quarter of a megabyte
    is mapped and given back for each read."""

    def __init__(
        self,
        on_free: Callable[["Connection"], None],
        on_lost: Callable[["Connection", list[Exchange], Exception], None],
    ) -> None:
        """
        Args:
            on_free: called when all that was sent is answered and more may be sent.
            on_lost: called once, when the connection is gone for whatever reason, with what has no answer.
        """
        self.ended = asyncio.Event()
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: Any = None
        self._buffer = memoryview(bytearray(READ_AT_ONCE))
        self._parser = h11.Connection(h11.CLIENT)
        self._under_way: deque[Exchange] = deque()
        self._status = 0
        self._parts: list[bytes] = []
        self._fault: Exception | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def stands(self) -> bool:
        """Of a connection by which nothing is under way: whether it has not ended, as far as this machine knows. In a
        loop that was blocked nobody else has looked."""
        if not self.is_open:
            return False
        look = select.poll()
        look.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not look.poll(0)

    @property
    def takes_more(self) -> bool:
        """Whether what is under way will be answered in a moment."""
        return self.is_open and bool(self._under_way) and self._under_way[0].request.is_small

    @property
    def depth(self) -> int:
        """How many requests are under way."""
        return len(self._under_way)

    def send(self, exchange: Exchange) -> None:
        """Sends the request at once."""
        if not self._under_way:
            self._expect()
        self._under_way.append(exchange)
        exchange.connection = self
        if self.is_open:  # else `on_lost` is about to be called
            self._transport.writelines(exchange.data)

    def cut(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    # -- of asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def get_buffer(self, _hint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        self._receive(self._buffer[:count])

    def eof_received(self) -> None:
        if self._status:
            self._receive(b"")  # may be the end of an answer

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()
        lost, self._under_way = list(self._under_way), deque()
        for exchange in lost:
            exchange.connection = None
        self._on_lost(self, lost, error or self._fault or ConnectionError("the connection was closed"))

    # -- answers ------------------------------------------------------------------------------------------------------

    def _expect(self) -> None:
        """Has the parser wait for the next answer."""
        self._parser.send(_ANY_REQUEST)
        self._parser.send(h11.EndOfMessage())

    def _receive(self, data: bytes | memoryview) -> None:
        if not self._under_way:
            self.cut()  # it ends, or says what nobody has asked for
            return
        try:
            self._parser.receive_data(data)  # type: ignore[arg-type]
            self._read()
        except h11.RemoteProtocolError as error:
            self._fault = ConnectionError(f"the answer cannot be read: {error}")
            self.cut()

    def _read(self) -> None:
        while self._under_way and self.is_open:
            event = self._parser.next_event()
            if isinstance(event, h11.Response):
                self._status = event.status_code
            elif isinstance(event, h11.Data):
                self._parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._complete()
            elif not isinstance(event, h11.InformationalResponse):
                break
        if self._under_way and self._status:
            self._under_way[0].stir()

    def _complete(self) -> None:
        """The answer to the first of the requests is here."""
        exchange = self._under_way.popleft()
        exchange.connection = None
        exchange.succeed(Answer(self._status, b"".join(self._parts)))
        self._status, self._parts = 0, []
        is_done = self._parser.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
        if not is_done or (self._parser.trailing_data[0] and not self._under_way):
            self.cut()
            return
        self._parser.start_next_cycle()
        if self._under_way:
            self._expect()
        else:
            self._on_free(self)
