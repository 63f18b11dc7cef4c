"""A thin layer of HTTP for the operations on jobs: plain ASGI, for speed, under Starlette's routes.

An operation is a coroutine that takes a `Call` and returns a `Reply` or another ASGI app that answers by itself; it
raises an `Error` to end in one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, Protocol
from urllib.parse import parse_qsl

import msgspec
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Receive, Scope, Send

from .access.keys import EVERYONE
from .access.keys import Scope as KeyScope
from .described import telling
from .engine.endpoints import ID
from .engine.keys import name_of
from .engine.tasks import within
from .errors import Error, HungUp, MethodNotAllowed, NotFound, RequestTimeout, TooLarge, Unavailable
from .queries import Query, parse_query
from .store import OUTAGES

logger = logging.getLogger(__name__)

SECONDS_TO_DROP = 1.0
NO_CONTENT = 204
WITHOUT_BODY = (NO_CONTENT, 304)

CONNECTION = "runlane.connection"
"""The key in the scope under which our server puts the `Connection` that a request came over."""


REQUEST_ID = "runlane.request_id"
"""The key in the scope under which our server puts the request's id, which is the answer's `X-Request-ID`."""


Body = bytes | bytearray


class Counter(Protocol):
    """Requests of one kind, of which there may be so many."""

    def tell(self) -> str:
        """The limit as the store's functions take it."""


class Connection(Protocol):
    """What the server knows of a client's connection."""

    def expect_reading(self, on_undelivered: Callable[[], None]) -> None:
        """Calls back when the connection is lost, now or with the answer that comes next, so that nobody reads it."""

    def expect_hang_up(self, on_hang_up: Callable[[], None]) -> None:
        """Calls back when the client goes away before it asks for something else; it may have been answered."""

    def abort(self) -> None:
        """Cuts the connection off, with what was not read."""


class Reply(NamedTuple):
    """An answer, JSON unless `content_type` says otherwise; with the status 204 or 304 there is no body. A large body
    can be in parts, which are not put together."""

    body: bytes | Sequence[bytes]
    status: int = 200
    headers: Mapping[str, str] = {}
    content_type: bytes = b"application/json"


class Direct:
    """What our own server can do besides ASGI, for whoever has been given its `receive` and `send` and not those of
    something in between: a body that is there already, and an answer that can be written now, need no turns."""

    __slots__ = ()

    def take_body(self) -> Body | None:
        """The whole body of the request, if all of it has come; to be asked for once."""
        raise NotImplementedError

    def reply(self, reply: Reply) -> bool:
        """Answers the request, unless that takes more than to write a few KiB. Whether it has."""
        raise NotImplementedError


def _direct(receive_or_send: Receive | Send) -> Direct | None:
    owner = getattr(receive_or_send, "__self__", None)
    return owner if isinstance(owner, Direct) else None


class Call:
    """One request to an operation."""

    __slots__ = ("_endpoint", "_receive", "_when_done", "counter", "facts", "headers", "key", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self._endpoint = ""
        self._when_done: list[Callable[[], None]] = []
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.key = EVERYONE
        self.counter: Counter | None = None
        self.facts: dict[str, str] = {}

    def when_done(self, callback: Callable[[], None]) -> None:
        """Calls back when the request has been answered, or has ended in another way."""
        self._when_done.append(callback)

    def end(self) -> None:
        """The request has ended."""
        for callback in self._when_done:
            callback()

    @property
    def tenant(self) -> str:
        """Whose key it came with."""
        return self.key.tenant

    @property
    def limit(self) -> str:
        """The limit that the first call to the store has to check; empty when there is none."""
        return self.counter.tell() if self.counter is not None else ""

    @property
    def method(self) -> str:
        """GET, POST, …"""
        return str(self.scope["method"])

    @property
    def parameters(self) -> dict[str, str]:
        """What the route took from the path."""
        return dict(self.scope["path_params"])

    @property
    def endpoint(self) -> str:
        """The name of the endpoint in the path, which is one of the key's tenant.

        Raises:
            NotFound: it cannot be the id of one.
        """
        if not self._endpoint:
            id: str = self.scope["path_params"]["endpoint"]
            if not ID.fullmatch(id):
                raise NotFound("no such endpoint")
            self._endpoint = name_of(self.key.tenant, id)
        return self._endpoint

    @property
    def raw_path(self) -> str:
        """The path, and the query with its '?' if there is one, as the client sent them."""
        path, query = self.scope["raw_path"], self.scope["query_string"]
        return f"{path.decode('latin-1')}?{query.decode('latin-1')}" if query else str(path.decode("latin-1"))

    @property
    def query(self) -> dict[str, str]:
        """The parameters after the '?'."""
        found: bytes = self.scope["query_string"]
        return dict(parse_qsl(found.decode("latin-1"), keep_blank_values=True)) if found else {}

    def header(self, name: bytes) -> str:
        """A header by its lower-case name; empty when it is missing."""
        return self.headers.get(name, b"").decode("latin-1")

    def queried(self, kind: type[Query]) -> Query:
        """The parameters after the '?' as this type has them, which may be none of its.

        Raises:
            BadRequest: one is missing, of a wrong type or out of its range.
        """
        return parse_query(self.query, kind)

    @property
    def connection(self) -> Connection | None:
        """The connection that it came over; None under a server that is not ours."""
        return self.scope.get(CONNECTION)

    async def body(self, limit: int, seconds: float) -> Body:
        """The whole body. Its size is checked while it comes in. A large one takes its memory bit by bit: what has to
        be had at once keeps all others waiting.

        Raises:
            TooLarge: it is, or says that it will be, over `limit` bytes.
            RequestTimeout: it was not complete after `seconds`.
            HungUp: the client went away in the middle of it.
        """
        direct = _direct(self._receive)
        if direct is not None and (body := direct.take_body()) is not None:
            if len(body) > limit:
                raise _too_large(limit)
            return body
        try:
            return await within(seconds, self._read(limit))
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {seconds:g} s", {"Connection": "close"}) from None
        except TooLarge:
            if not self.headers.get(b"expect"):  # else the client waits for our word before it sends anything
                await self._drop(limit)
            raise

    async def hang_up(self) -> None:
        """Returns when the client has gone away, or was answered. The body comes first."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _read(self, limit: int) -> Body:
        if int(self.headers.get(b"content-length", 0)) > limit:
            raise _too_large(limit)
        body: Body = b""
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise HungUp("the request ended before its body was complete")
            part: bytes = message.get("body", b"")
            if not body:
                body = part
            elif isinstance(body, bytearray):
                body += part
            else:
                body = bytearray(body)
                body += part
            if len(body) > limit:
                raise _too_large(limit)
            if not message.get("more_body", False):
                return body

    async def _drop(self, most: int) -> None:
        """Reads on, for a while: a client that is cut off while it sends sees a reset instead of the answer."""
        dropped = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS_TO_DROP):
                while dropped < most:
                    message = await self._receive()
                    dropped += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over the limit of {limit} bytes", {"Connection": "close"})


class ErrorBody(msgspec.Struct):
    """What went wrong."""

    error: str


@telling(ErrorBody)
def error_reply(error: Error) -> Reply:
    """An error as RunPod's clients know it."""
    return Reply(msgspec.json.encode(ErrorBody(error.message)), error.status, error.headers)


Answer = Reply | ASGIApp
Operation = Callable[[Call], Awaitable[Answer]]
Check = Callable[[Call], Awaitable[None]]
Shape = Callable[[Error], Reply]


class ByMethod:
    """Several operations of one path."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self.operations = operations

    async def __call__(self, call: Call) -> Answer:
        """Answers a request by its method, which is one of these."""
        return await self.operations[call.method](call)


class Served(NamedTuple):
    """An operation, its methods, what a key has to be good for (None: it checks that by itself), whose limit of
    requests counts, and what the audit log calls it, if it is told there."""

    operation: Operation
    methods: tuple[str, ...]
    scope: KeyScope | None
    limit: str = ""
    event: str = ""


class Managed(NamedTuple):
    """An operation that is not on jobs, what a key has to be good for (None: it checks that by itself), what the audit
    log calls it, if it is told there, and whose limit of requests counts."""

    operation: Operation
    scope: KeyScope | None
    event: str = ""
    limit: str = ""


class Endpoint:
    """An operation as an ASGI app: checks the method and the key, and turns errors into answers of the given shape."""

    def __init__(
        self, operation: Operation, methods: tuple[str, ...], check: Check, shape: Shape = error_reply
    ) -> None:
        self._operation = operation
        self._methods = methods
        self._check = check
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        call = Call(scope, receive)
        try:
            try:
                if call.method not in self._methods:
                    self._refuse()
                await self._check(call)
                answer = await self._operation(call)
            except Exception as exception:
                answer = self._shape(error_of(exception, scope))
            if isinstance(answer, Reply):
                await send_reply(send, answer)
            else:
                await answer(scope, receive, send)
        finally:
            call.end()

    def _refuse(self) -> NoReturn:
        raise MethodNotAllowed(*self._methods)


def error_of(exception: Exception, scope: Scope) -> Error:
    """What the client is told of an exception. Those that are nobody's answer to a request are logged."""
    if isinstance(exception, Error):
        return exception
    if isinstance(exception, (*OUTAGES, RedisError)):
        logger.error("the store refused %s", shown(scope), exc_info=exception)
        return Unavailable(f"the queue store could not serve this: {type(exception).__name__}")
    logger.error("%s failed", shown(scope), exc_info=exception)
    return Error("internal error; see the gateway's log")


def shown(scope: Scope) -> str:
    """A request as logs name it: with its path as the client sent it, which has no line break, and its id."""
    return f"{scope['method']} {scope['raw_path'].decode('latin-1')} (request {scope.get(REQUEST_ID, 'without id')})"


async def send_reply(send: Send, reply: Reply) -> None:
    """Sends a whole answer."""
    direct = _direct(send)
    if direct is not None and direct.reply(reply):
        return
    headers = []
    parts = [reply.body] if isinstance(reply.body, bytes) else reply.body
    if reply.status not in WITHOUT_BODY:
        headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % sum(map(len, parts)))]
    if reply.headers:
        headers += [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    *before, last = parts
    for part in before:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": last})
