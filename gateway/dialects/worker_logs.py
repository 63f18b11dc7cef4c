"""The logs of workers, of which RunPod shows nothing by its API: the newest lines, or all that come from now on."""

import re
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec

from ..access.keys import Scope
from ..described import JSON, Media, described
from ..engine.telemetry import Following, LineId, LogLine, Telemetry
from ..errors import BadRequest
from ..event_stream import COMMENT, SECONDS_BETWEEN_COMMENTS, EventStream, on_one_line
from ..http import Answer, Call, Managed, Reply
from . import worker_types as types
from .workers import worker_of

_ID = re.compile(r"(\d{1,15})-(\d{1,15})", re.ASCII)

Shape = Callable[[LogLine], bytes]


class WorkerLogs:
    """The operations under /v2/{endpoint}/workers/{worker}/logs. What is printed can be anything, also what jobs were
    given, so it takes a key that may manage."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        return {("/v2/{endpoint}/workers/{worker}/logs", "GET"): Managed(self.show, Scope.MANAGE)}

    @described(
        Media({JSON: types.WorkerLog, "text/event-stream": str}), query=types.LogReading, headers=types.LAST_EVENT_ID
    )
    async def show(self, call: Call) -> Answer:
        """The newest lines of a worker's log. As an event stream: these, and all that come."""
        after = last_event(call)
        if "text/event-stream" in call.header(b"accept"):
            return await self.stream(call, _shown, after)
        lines = await self.newest(call)
        return Reply(msgspec.json.encode(types.WorkerLog([_printed(line) for line in lines], len(lines))))

    async def newest(self, call: Call) -> list[LogLine]:
        """As many as the call asks for.

        Raises:
            BadRequest: it asks for more than there can be.
            NotFound: no such worker.
        """
        return await self._telemetry.lines(call.endpoint, worker_of(call), call.queried(types.LogReading).n)

    async def stream(self, call: Call, shape: Shape, after: LineId | None) -> Answer:
        """An event stream of lines in a shape, each with its id, behind the one with the id `after`, or from the newest
        ones on.

        Raises:
            BadRequest, NotFound: as `newest`.
        """
        endpoint, worker, count = call.endpoint, worker_of(call), call.queried(types.LogReading).n
        await self._telemetry.lines(endpoint, worker, 1)  # errors get their status before the stream begins
        ending = AsyncExitStack()
        following = ending.enter_context(self._telemetry.following(endpoint, worker, after, count))
        if call.connection is not None:
            call.connection.expect_hang_up(following.end)
        return EventStream(_Events(following, shape), ending)


def last_event(call: Call) -> LineId | None:
    """Behind which line a stream is to go on.

    Raises:
        BadRequest: that can be none.
    """
    text = call.header(b"last-event-id")
    if not text:
        return None
    if not (found := _ID.fullmatch(text)):
        raise BadRequest(f"Last-Event-ID must be the id of an event, not {text[:40]!r}")
    return int(found[1]), int(found[2])


class _Events:
    """Lines as events."""

    def __init__(self, following: Following, shape: Shape) -> None:
        self._following = following
        self._shape = shape

    async def next(self) -> bytes | None:
        """See `Source`."""
        lines = await self._following.next(SECONDS_BETWEEN_COMMENTS)
        if not lines:
            return None if lines is None else COMMENT
        return b"".join(map(self._event_of, lines))

    def _event_of(self, line: LogLine) -> bytes:
        return b"id: %d-%d\r\ndata: %b\r\n\r\n" % (*line.id, on_one_line(self._shape(line)))


def _printed(line: LogLine) -> types.PrintedAt:
    return types.PrintedAt(line.at, "stdout" if line.stream == "stdout" else "stderr", line.text)


def _shown(line: LogLine) -> bytes:
    return msgspec.json.encode(_printed(line))
