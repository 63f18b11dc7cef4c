"""HTTP/1.1 as our server speaks it: uvicorn's protocol over llhttp, with limits, deadlines and less good will."""

import asyncio
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import Scope
from uvicorn.server import ServerState

from .delivery import Delivering
from .errors import BadRequest, Error, HeadersTooLarge, RequestTimeout
from .exchange import Defaults, Exchange, refusal, request_id
from .framing import MOST_HEADERS, Chunks, Line, fault_in, take_head
from .http import CONNECTION, REQUEST_ID
from .settings import Settings
from .unread import Unread

SECONDS_IDLE = 75
"""How long a connection is kept between two requests."""

SECONDS_FOR_LAST_REQUESTS = 0.2
"""What a client had sent when the server began to end is answered if it arrives within so long."""

SECONDS_FOR_FIRST_REQUESTS = 1.0
"""The same for a connection that has had none: who has just connected is about to send one, and may be busy."""

SECONDS_TO_LINGER = 1.0
MOST_DROPPED = 20_000_000
"""A client that has its last answer while it still sends sees it only if we go on reading: so long, and so much."""

SECONDS_BETWEEN_LOOKS = 0.1
"""Under TLS, whether a client has read its last answer is looked at so often."""

MOST_AHEAD = 65536
"""Bytes of further requests that are taken from the socket while one is answered."""


class Configuration(uvicorn.Config):
    """uvicorn's, and ours."""

    def __init__(self, app: Any, settings: Settings, **options: Any) -> None:
        super().__init__(app, **options)
        self.settings = settings


class State(ServerState):
    """What the connections of one server share."""

    def __init__(self) -> None:
        super().__init__()
        self.defaults = Defaults(())
        self.deadlines: dict[Protocol, float] = {}
        self.unread = Unread()
        self.is_ending = False

    def end_late(self, now: float) -> None:
        """Ends the connections whose time is over; to be called every now and then, which saves each request a timer.
        `now`: the loop's time."""
        for protocol in [protocol for protocol, deadline in self.deadlines.items() if deadline < now]:
            protocol.on_deadline()


class Protocol(Delivering):
    """One connection. Its requests are taken one at a time: what comes behind one is looked at when that is answered.

    A connection without a request under way is not cut off at the end of the server while one may be on its way: the
    client could not know whether it was executed.
    """

    config: Configuration
    server_state: State
    cycle: Exchange  # type: ignore[assignment]
    tasks: set[asyncio.Task[None]]
    _asgi: ClassVar = {"version": "3.0", "spec_version": "2.3"}
    _line: Line
    _head = b""
    _ahead = b""
    _is_in_body = False
    _chunks: Chunks | None = None
    _left = 0
    _is_deaf = False
    _fault: Error | None = None
    _is_refused = False
    _dropped = 0
    _ending = False
    _is_closing = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Of asyncio: a client is there."""
        super().connection_made(transport)
        self._expect_within(self.config.settings.header_seconds)
        if self.server_state.is_ending:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio: the client is gone."""
        self.server_state.deadlines.pop(self, None)
        self.server_state.unread.discard(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Of asyncio: the client reads more slowly than it is answered."""
        super().pause_writing()
        self.server_state.unread.add(self, self.loop.time())

    def resume_writing(self) -> None:
        """Of asyncio."""
        super().resume_writing()
        if not self._is_closing:
            self.server_state.unread.discard(self)

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        if self._is_deaf:
            self._drop(len(data))
        try:
            while data and not self._is_deaf:
                if self._is_in_body:
                    data = self._take_body(data)
                elif self.cycle is None or self.cycle.response_complete:
                    data = self._take_head(data)
                else:
                    self._keep(data)
                    break
            if self.flow.read_paused:
                self._expect_within(0)
        except Error as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            self._refuse(self._fault or BadRequest(f"this is not HTTP/1.1: {error}"))

    on_message_begin = on_url = None  # type: ignore[assignment]  # httptools: what they would say is known by then

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of httptools."""
        if len(self.headers) >= MOST_HEADERS:
            self._fail(HeadersTooLarge(f"there are more than {MOST_HEADERS} headers"))
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Of httptools: a request begins, unless something is wrong with it."""
        found, line = dict(self.headers), self._line
        if fault := fault_in(self.headers, found, line.minor):
            self._fail(fault)
        if self.parser.should_upgrade():
            self._fail(BadRequest("no other protocol and no tunnel is served"))
        self._is_in_body = True
        self._left = int(found.get(b"content-length", 0))
        self._chunks = Chunks() if b"transfer-encoding" in found else None
        self.server_state.deadlines.pop(self, None)
        self.expects_nothing()
        keep_alive = line.minor == b"1" and self.parser.should_keep_alive() and not self._ending
        id = request_id(found.get(b"x-request-id"))
        exchange = Exchange(self._scope(line, id), self, self.server_state.defaults, id, keep_alive)
        if b"expect" in found and line.minor == b"1":
            exchange.waiting_for_100_continue = found[b"expect"].lower() == b"100-continue"
        self.cycle = exchange
        exchange.begin(self.app, self.loop)

    def on_body(self, body: bytes) -> None:
        """Of httptools."""
        if not self.cycle.response_complete:
            self.cycle.feed(body)

    def on_message_complete(self) -> None:
        """Of httptools: a request has come as a whole."""
        self._is_in_body = False
        self._is_deaf = not self.cycle.keep_alive
        if self.cycle.response_complete:
            self._expect_within(SECONDS_IDLE)
        else:
            self.cycle.end_body()

    def on_response_complete(self) -> None:
        """Of `Exchange`: a request is answered."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if not self.cycle.keep_alive:
            self._end_sending()
            return
        self._expect_within(self.config.settings.body_seconds if self._is_in_body else SECONDS_IDLE)
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self.data_received(ahead)

    def on_deadline(self) -> None:
        """What is to come has not come in time. Whoever has sent nothing gets no answer, which could be taken for that
        of a request on its way. While a request is under way, nothing is to come but the end."""
        self.server_state.deadlines.pop(self, None)
        if self._is_under_way and not self._is_refused:
            if self.flow.read_paused:
                self._expect_within(0)
                self.look_for_hang_up()
        elif self._head and not self._is_refused:
            seconds = self.config.settings.header_seconds
            self._refuse(RequestTimeout(f"the headers did not arrive within {seconds:g} s"))
        else:
            self._close()

    def shutdown(self) -> None:
        """Of uvicorn: the server ends."""
        self._ending = True
        if self.cycle is not None:
            self.cycle.keep_alive = False
        is_new = self.cycle is None
        self.loop.call_later(SECONDS_FOR_FIRST_REQUESTS if is_new else SECONDS_FOR_LAST_REQUESTS, self._end)

    def _end(self) -> None:
        if self.cycle is None or self.cycle.response_complete or self._is_refused:
            self._close()

    def _scope(self, line: Line, id: bytes) -> Scope:
        path = line.path.decode("ascii")
        return {
            "type": "http",
            "asgi": self._asgi,
            "http_version": "1.1" if line.minor == b"1" else "1.0",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": line.method.decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": line.path,
            "query_string": line.query or b"",
            "headers": self.headers,
            CONNECTION: self,
            REQUEST_ID: id.decode("ascii"),
        }

    def _take_head(self, data: bytes) -> bytes:
        searched = len(self._head)
        if searched:
            data = self._head + data
        elif data.startswith(b"\r\n"):  # which some send behind a body: RFC 9112, section 2.2
            return data[2:]
        taken = take_head(data, searched, self.config.settings.header_limit)
        if taken is not None:
            self._line, head, rest = taken
            self._head, self.headers = b"", []
            self.parser.feed_data(head)
            return rest
        if not searched and self.cycle is not None:
            self._expect_within(self.config.settings.header_seconds)
        self._head = data
        return b""

    def _take_body(self, data: bytes) -> bytes:
        size = self._chunks.take(data) if self._chunks else min(self._left, len(data))
        self._left -= size
        if size == len(data):
            self.parser.feed_data(data)
            return b""
        self.parser.feed_data(data[:size])
        return data[size:]

    def _keep(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > MOST_AHEAD:
            self.flow.pause_reading()

    def _expect_within(self, seconds: float) -> None:
        self.server_state.deadlines[self] = self.loop.time() + seconds

    def _fail(self, error: Error) -> None:
        """Has llhttp stop, which does not say by itself why."""
        self._fault = error
        raise error

    def _refuse(self, error: Error) -> None:
        """Answers in place of an app, and takes nothing more from this client. The request whose body is none counts as
        cut off."""
        self._is_deaf = self._is_refused = True
        if self._is_in_body:
            self.cycle.cut_off()
            if self.cycle.response_started:
                self._close()
                return
        self.transport.write(refusal(error, self.server_state.defaults))
        self._end_sending(still_comes=True)

    def _end_sending(self, still_comes: bool = False) -> None:
        """Closes the connection behind the last answer: at once when its client has sent all, else after a while."""
        self._is_deaf = True
        if not (still_comes or self._is_in_body):
            self._close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._expect_within(SECONDS_TO_LINGER)

    def _close(self) -> None:
        """Closes the connection behind what was written."""
        if not self._is_closing:
            self._is_closing = self._is_deaf = True
            self._close_when_read()

    def _close_when_read(self) -> None:
        """A connection of TLS that is closed does not wait for long until its client has read the rest."""
        if self.transport.is_closing():
            return
        if not self._is_read:
            self.server_state.unread.add(self, self.loop.time())
            if self.scheme == "https":
                self.loop.call_later(SECONDS_BETWEEN_LOOKS, self._close_when_read)
                return
        self.transport.close()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > MOST_DROPPED and (self._is_refused or self.cycle.response_complete):
            self._close()
