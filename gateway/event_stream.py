"""Server-sent events, sent as they come: https://html.spec.whatwg.org/multipage/server-sent-events.html

By hand, since a stream that waits is to cost no more than any other request that does: with a task each for its events,
its comments, the end of the server and that of its client, 5,000 of them took 42 kB of memory each, instead of what it
is without.
"""

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol

from starlette.types import Receive, Scope, Send

from .engine.tasks import within
from .http import CONNECTION, shown

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_COMMENTS = 15.0
SECONDS_TO_WRITE = 30.0
COMMENT = b": still there\r\n\r\n"
"""After a silence, so that nothing on the way takes the connection for dead."""

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]


class BrokenOff(Exception):
    """The stream cannot go on, and its client cannot be told why."""


def event(kind: str, data: bytes) -> bytes:
    """An event with a name; its data is one line."""
    return b"event: %b\r\ndata: %b\r\n\r\n" % (kind.encode(), data)


def on_one_line(payload: bytes) -> bytes:
    """JSON has line breaks between its tokens only; in an event's data they would end the line."""
    return payload.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in payload or b"\r" in payload else payload


class Source(Protocol):
    """Where the events come from."""

    async def next(self) -> bytes | None:
        """The text that comes next, of one event or several, or a comment; None at the end, also that of its client.

        Raises:
            BrokenOff: see there.
        """


class EventStream:
    """The answer to a client that streams, as an ASGI app."""

    def __init__(
        self,
        source: Source,
        ending: AsyncExitStack,
        first: bytes | None = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """
        Args:
            source: where the events come from.
            ending: what is to be done when the stream ends.
            first: what the source gave already; None if that was the end.
            headers: besides those of every event stream.
        """
        self._source = source
        self._ending = ending
        self._first = first
        self._headers = [*HEADERS, *headers]

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Sends what comes, until the end or until the client reads no more."""

        async def write(text: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": more})

        async with self._ending:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            text = self._first
            try:
                while text is not None:
                    await within(SECONDS_TO_WRITE, write(text))
                    text = await self._source.next()
                await within(SECONDS_TO_WRITE, write(b"", more=False))
            except TimeoutError:
                logger.warning(
                    "%s: its client reads nothing, or too slowly: %d s for a piece; it is cut off",
                    shown(scope),
                    SECONDS_TO_WRITE,
                )
                _abort(scope)
            except BrokenOff:
                _abort(scope)


def _abort(scope: Scope) -> None:
    """Cuts the connection; under another server than ours, it is closed since the answer has no end."""
    if (connection := scope.get(CONNECTION)) is not None:
        connection.abort()
