"""One request and its answer on a connection."""

import asyncio
import logging
import random
import re
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

import orjson
from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from .delivery import MOST_GATHERED, Gathering
from .errors import Error
from .http import Body, Direct, Reply, shown

logger = logging.getLogger(__name__)

_NOT_IN_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_NOT_IN_VALUE = re.compile(rb"[\x00-\x08\n-\x1f\x7f]")
_is_id = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch
_WITHOUT_BODY = (204, 304)
INTERNAL_ERROR = Error("internal error; see the gateway's log")


def request_id(given: bytes | None) -> bytes:
    """The id of a request: as its client names it, when that is a name, else a new one."""
    return given if given is not None and _is_id(given) else b"%016x" % random.getrandbits(64)


class Defaults:
    """Headers of every answer that does not have its own by the same name, ready to be sent."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._lines = {name: b"%b: %b\r\n" % (name, value) for name, value in headers}
        self.names = frozenset(self._lines)
        self.lines = b"".join(self._lines.values())

    def without(self, names: set[bytes]) -> bytes:
        """The lines of the others."""
        return b"".join(line for name, line in self._lines.items() if name not in names)


class Connection(Protocol):
    """What an exchange needs of the connection it is on."""

    transport: Gathering
    flow: FlowControl
    tasks: set[asyncio.Task[None]]

    def on_response_complete(self) -> None:
        """The answer has been written; the connection ends with it unless it is to be kept alive."""


class Exchange(Direct):
    """What stands between the app and the connection; in place of uvicorn's `RequestResponseCycle`, with the names that
    its protocol uses. Of an answer in HTTP/1.0 whose length nobody knows, the end of the connection is the end."""

    __slots__ = (
        "_body", "_defaults", "_flow", "_is_until_close", "_left", "_on_response", "_request_id", "_task", "_tasks",
        "chunked", "disconnected", "keep_alive", "message_event", "more_body", "response_complete", "response_started",
        "scope", "transport", "waiting_for_100_continue",
    )  # fmt: skip

    def __init__(
        self, scope: Scope, connection: Connection, defaults: Defaults, request_id: bytes, keep_alive: bool
    ) -> None:
        self.scope = scope
        self.transport = connection.transport
        self._flow = connection.flow
        self._tasks = connection.tasks
        self._task: asyncio.Task[None] | None = None
        self._on_response = connection.on_response_complete
        self._defaults = defaults
        self._request_id = request_id
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = False
        self.message_event = asyncio.Event()
        self.disconnected = False
        self._body: bytes | bytearray = b""
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        self._left = 0
        self.chunked: bool | None = None
        self._is_until_close = False

    def feed(self, part: bytes) -> None:
        """A part of the request's body has come."""
        if not self._body:
            self._body = part
        elif isinstance(self._body, bytearray):
            self._body += part
        else:
            self._body = bytearray(self._body + part)
        if len(self._body) > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        self.message_event.set()

    def end_body(self) -> None:
        """The request's body is complete."""
        self.more_body = False
        self.message_event.set()

    def cut_off(self) -> None:
        """Nothing more is taken from the app."""
        self.disconnected = True
        self.message_event.set()

    async def receive(self) -> Message:
        """Of ASGI."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self._flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        if not self.more_body:  # nobody may ask for more, and whoever is not read from is not seen to hang up
            self._flow.resume_reading()
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    def take_body(self) -> Body | None:
        """Of `Direct`."""
        if self.more_body or self.disconnected or self.response_complete or self.waiting_for_100_continue:
            return None
        self.message_event.clear()  # what is to be heard of next is the end
        self._flow.resume_reading()
        body, self._body = self._body, b""
        return body

    def begin(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        """Has the request answered, in a task that is one of the connection's until then."""
        self._task = loop.create_task(self.run(app))
        self._tasks.add(self._task)

    async def run(self, app: ASGIApp) -> None:
        """Has the request answered."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                logger.error("%s was not answered to its end", shown(self.scope))
        except BaseException:
            logger.exception("%s failed", shown(self.scope))
        finally:
            try:
                if not self.response_complete and not self.disconnected:
                    await self._give_up()
            finally:
                self._on_response = _nothing  # else it and the connection hold one another
                if self._task is not None:
                    self._tasks.discard(self._task)

    async def _give_up(self) -> None:
        """Who has a part of an answer sees that it has no end."""
        if self.response_started:
            self.keep_alive = False
            self._finish()
        else:
            await self._answer_500()

    async def _answer_500(self) -> None:
        body = orjson.dumps({"error": INTERNAL_ERROR.message})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)),
                   (b"connection", b"close")]  # fmt: skip
        await self.send({"type": "http.response.start", "status": INTERNAL_ERROR.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        """Of ASGI."""
        return self._send_body(message) if self.response_started else self._send_head(message)

    def reply(self, reply: Reply) -> bool:
        """Of `Direct`."""
        body = reply.body
        if (
            not isinstance(body, bytes)
            or len(body) > MOST_GATHERED
            or reply.headers
            or reply.status in _WITHOUT_BODY
            or self.response_started
            or self.disconnected
            or self.waiting_for_100_continue
            or self._flow.write_paused
            or self.scope["method"] == "HEAD"
        ):
            return False
        self.response_started = True
        self.transport.write(
            b"%b%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (
                STATUS_LINE[reply.status], self._defaults.lines, reply.content_type, len(body), self._request_id,
                b"" if self.keep_alive else b"connection: close\r\n", body,
            )
        )  # fmt: skip
        self._finish()
        return True

    async def _send_head(self, message: Any) -> None:
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if message["type"] != "http.response.start":
            raise RuntimeError(f"an answer cannot begin with {message['type']}")
        if self.waiting_for_100_continue:
            # The client may now send its body or not, so what comes next could be either.
            self.keep_alive = self.waiting_for_100_continue = False
        status: int = message["status"]
        lines = [STATUS_LINE[status], b""]
        own = self._take_headers(message.get("headers", ()), lines)
        lines[1] = self._defaults.without(own) if own else self._defaults.lines
        if b"x-request-id" not in own:
            lines.append(b"x-request-id: %b\r\n" % self._request_id)
        if self.chunked is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self._choose_framing(lines)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self.response_started = True
        self.transport.write(b"".join(lines))

    def _take_headers(self, headers: Iterable[tuple[bytes, bytes]], lines: list[bytes]) -> set[bytes]:
        """Puts the app's own headers into the lines. Returns those that stand for ours."""
        own = set()
        for given, value in headers:
            name = given.lower()
            if _NOT_IN_NAME.search(name) or _NOT_IN_VALUE.search(value):
                raise RuntimeError(f"{name!r} cannot be a header, or not with its value")
            if name == b"content-length":
                self._left, self.chunked = int(value), False
            elif name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            elif name in self._defaults.names or name == b"x-request-id":
                own.add(name)
            lines.append(b"%b: %b\r\n" % (name, value))
        return own

    def _choose_framing(self, lines: list[bytes]) -> None:
        if self.scope["http_version"] == "1.0":
            self._is_until_close, self.keep_alive = True, False
        else:
            self.chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")

    async def _send_body(self, message: Any) -> None:
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if message["type"] != "http.response.body" or self.response_complete:
            raise RuntimeError(f"{message['type']} cannot follow here")
        body, more = message.get("body", b""), message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            self._left = 0
        elif self.chunked:
            self._write_chunk(body, more)
        else:
            if not self._is_until_close:
                self._count(len(body))
            self.transport.write(body)
        if not more:
            self._complete()

    def _write_chunk(self, body: bytes, more: bool) -> None:
        if body:
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        if not more:
            self.transport.write(b"0\r\n\r\n")

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise RuntimeError("the answer is longer than it said")

    def _complete(self) -> None:
        if self._left:
            raise RuntimeError("the answer is shorter than it said")
        self._finish()

    def _finish(self) -> None:
        self.response_complete = True
        self.message_event.set()
        self._on_response()


def refusal(error: Error, defaults: Defaults) -> bytes:
    """The answer to what is no request, after which the connection is closed."""
    body = orjson.dumps({"error": error.message})
    lines = (
        STATUS_LINE[error.status], defaults.lines, b"x-request-id: %b\r\n" % request_id(None),
        b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body),
    )  # fmt: skip
    return b"".join((*lines, body))


def _nothing() -> None:
    """Nobody waits for the answer any more."""
