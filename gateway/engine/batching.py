"""Group commit: calls that come up in one turn of the event loop, while others are under way, go to the store together.

One connection per node of the store carries all calls, each batch written without waiting for the replies to those
before it, and all submissions to one endpoint in a batch are one function call. The alternative, a pipeline object and
a pooled connection per batch, spent more time in the client library than everything else in a `/run` together.

A call whose reply was lost may have been executed, so nothing is ever repeated here, save a call that the store
answered with "I do not know this function" or "ask another node": those did nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from handler_sdk.links.line import Line

from ..errors import TooManyRequests, Unavailable
from ..store import LIBRARY, OUTAGES, SECONDS_TO_ANSWER, Store
from .jobs import MOST_COPIED
from .tasks import end

logger = logging.getLogger(__name__)

Packed = bytes | memoryview
Argument = str | Packed | int

MOST_UNDER_WAY = 8
"""Batches sent and not yet answered. While there are as many, what comes in gathers into a larger batch."""

MOST_IN_BATCH = 16
"""So many calls are sent before their turn of the event loop is over, so that the store works while more come in."""

SAME_LIMIT = "="
"""Stands for the limit of the submission before, by which there is one request more."""

MOST_BYTES_IN_CALL = 4 * 1024 * 1024

Resolve = Callable[["_Call | _Submissions", Any], None]


class Batcher:
    """Calls functions in the store, many together when there are many."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._pipes: dict[Redis, _Pipe] = {}
        self._repeats: set[asyncio.Task[None]] = set()

    def call(self, base: str, function: str, *arguments: Argument) -> "asyncio.Future[Any]":
        """Calls one function. The future gets its reply, or `Unavailable` when the store is out of reach."""
        return self._add(_Call(base, function, arguments, self._loop.create_future()))

    def submit(self, base: str, arguments: Sequence[Argument], limit: str, size: int) -> "asyncio.Future[Any]":
        """Submits one job, of about `size` bytes, unless that is over the limit; its reply is its own part of what the
        function `submit` returns."""
        return self._add(_Submission(base, arguments, limit, self._loop.create_future(), size))

    def submit_alike(self, base: str, arguments: Sequence[Argument], limit: str) -> "asyncio.Future[Any]":
        """Submits several jobs, unless that is one request too many; its reply is what the function of this name
        returns."""
        if limit:
            return self.call(base, "limited", limit, "submit_alike", *arguments)
        return self.call(base, "submit_alike", *arguments)

    async def close(self) -> None:
        """Closes the connections; calls under way end as `Unavailable`."""
        for task in list(self._repeats):
            await end(task)
        await asyncio.gather(*(pipe.close() for pipe in self._pipes.values()))

    def _add(self, call: "_Call") -> "asyncio.Future[Any]":
        try:
            node = self._store.node_of(call.base)
        except (RedisError, OSError):
            call.resolve(Unavailable())
        else:
            pipe = self._pipes.get(node)
            if pipe is None:
                pipe = self._pipes[node] = _Pipe(node, self._resolve, self._store.look_again)
            pipe.add(call)
        return call.future

    def _resolve(self, call: "_Call | _Submissions", reply: Any) -> None:
        if isinstance(reply, MovedError | AskError) or _library_missing(reply):
            task = asyncio.get_running_loop().create_task(self._repeat(call, reply))
            self._repeats.add(task)
            task.add_done_callback(self._repeats.discard)
        else:
            call.resolve(_translated(reply) if isinstance(reply, BaseException) else reply)

    async def _repeat(self, call: "_Call | _Submissions", reply: ResponseError) -> None:
        try:
            if _library_missing(reply):
                await self._store.load_library()
            # This way follows the cluster to another node, and learns of it for the calls to come.
            again = await cast(Any, self._store.commands).execute_command(*call.command())
        except Exception as error:
            again = _translated(error)
        call.resolve(again)


class _Call:
    __slots__ = ("arguments", "base", "function", "future", "size")

    def __init__(
        self,
        base: str,
        function: str,
        arguments: Sequence[Argument],
        future: "asyncio.Future[Any]",
        size: int = 0,
    ) -> None:
        self.base = base
        self.function = function
        self.arguments = arguments
        self.future = future
        self.size = size

    def command(self) -> tuple[Argument, ...]:
        return ("FCALL", f"{LIBRARY}_{self.function}", 1, self.base, *self.arguments)

    def resolve(self, reply: Any) -> None:
        if self.future.done():
            return  # whoever asked has gone away
        if isinstance(reply, BaseException):
            self.future.set_exception(reply)
        else:
            self.future.set_result(reply)


class _Submission(_Call):
    """One that may share a call with others."""

    __slots__ = ("limit",)

    def __init__(
        self, base: str, arguments: Sequence[Argument], limit: str, future: "asyncio.Future[Any]", size: int
    ) -> None:
        super().__init__(base, "submit", arguments, future, size)
        self.limit = limit


class _Submissions:
    """The submissions to one endpoint in a batch, as one call."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._submissions: list[_Submission] = []
        self.size = 0

    def add(self, submission: _Submission) -> None:
        self._submissions.append(submission)
        self.size += submission.size

    def command(self) -> tuple[Argument, ...]:
        gathered: list[Argument] = ["FCALL", f"{LIBRARY}_submit", 1, self._base]
        before = ""
        for submission in self._submissions:
            gathered.extend(submission.arguments)
            name = submission.limit.partition(" ")[0]
            gathered.append(SAME_LIMIT if name and name == before else submission.limit)
            before = name
        return tuple(gathered)

    def resolve(self, reply: Any) -> None:
        replies = reply if isinstance(reply, list) else [reply] * len(self._submissions)
        for submission, part in zip(self._submissions, replies, strict=True):
            submission.resolve(part)


class _Batch:
    """Calls that were written together; each reply is the next call's."""

    def __init__(self, calls: list[_Call | _Submissions]) -> None:
        self.calls = deque(calls)
        self.timer: asyncio.TimerHandle | None = None


class _Pipe:
    """The connection to one node. It is made when the first call comes, and again after it was lost."""

    def __init__(self, node: Redis, resolve: Resolve, lost: Callable[[], None]) -> None:
        self._node = node
        self._resolve = resolve
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._line: Line | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[_Call] = []
        self._turn_has_more = False
        self._closed = False
        self._under_way: deque[_Batch] = deque()

    def add(self, call: _Call) -> None:
        self._waiting.append(call)
        if not self._under_way or len(self._waiting) >= MOST_IN_BATCH:
            self._send()  # the store has nothing to do, or enough has gathered
        elif not self._turn_has_more:
            self._turn_has_more = True
            self._loop.call_soon(self._end_turn)

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            await end(self._connecting)
        if self._line is not None:
            self._line.cut()
        self._fail(Unavailable())

    def _end_turn(self) -> None:
        self._turn_has_more = False
        self._send()

    def _send(self) -> None:
        if not self._waiting or len(self._under_way) >= MOST_UNDER_WAY:
            return
        if self._closed:
            self._fail(Unavailable())
        elif self._line is None:
            self._connecting = self._connecting or self._loop.create_task(self._connect())
        elif self._line.is_writable:
            waiting, self._waiting = self._waiting, []
            batch = _Batch(_gather(waiting))
            packed = self._pack(batch)
            if batch.calls:
                batch.timer = self._loop.call_later(SECONDS_TO_ANSWER, self._line.cut)
                self._under_way.append(batch)
                self._line.write(packed)

    def _pack(self, batch: _Batch) -> list[Packed]:
        """What is written for a batch; a call that cannot be written fails alone."""
        packed: list[Packed] = []
        for call in list(batch.calls):
            try:
                packed += _packed(call)
            except Exception as error:
                batch.calls.remove(call)
                call.resolve(error)
        return packed

    async def _connect(self) -> None:
        try:
            self._line = await Line.open(self._node.connection_pool, self._on_reply, self._on_lost)
        except Exception as failure:
            if isinstance(failure, RedisError | OSError):
                self._fail(_translated(failure))
            else:  # such as uvloop's "the handler is closed", of a store that goes just now
                logger.exception("the connection to the store has a fault")
                self._fail(Unavailable())
            self._lost()
        finally:
            self._connecting = None
        self._send()

    def _on_reply(self, reply: Any) -> None:
        batch = self._under_way[0]
        self._resolve(batch.calls.popleft(), reply)
        if not batch.calls:
            self._under_way.popleft()
            cast(asyncio.TimerHandle, batch.timer).cancel()
            self._send()
        if isinstance(reply, ReadOnlyError) and self._line is not None:
            self._line.cut()  # a replica now; the next connection asks anew who is the primary

    def _on_lost(self) -> None:
        self._line = None
        waiting, self._waiting = self._waiting, []
        self._fail(Unavailable())
        self._waiting = waiting  # these were never sent
        if not self._closed:
            self._lost()
        self._send()

    def _fail(self, error: BaseException) -> None:
        for batch in self._under_way:
            cast(asyncio.TimerHandle, batch.timer).cancel()
            for call in batch.calls:
                call.resolve(error)
        for waiting in self._waiting:
            waiting.resolve(error)
        self._under_way.clear()
        self._waiting = []


def _gather(waiting: list[_Call]) -> list[_Call | _Submissions]:
    batch: list[_Call | _Submissions] = []
    gathered: dict[str, _Submissions] = {}
    for call in waiting:
        if not isinstance(call, _Submission):
            batch.append(call)
            continue
        submissions = gathered.get(call.base)
        if submissions is None or submissions.size > MOST_BYTES_IN_CALL:
            submissions = gathered[call.base] = _Submissions(call.base)
            batch.append(submissions)
        submissions.add(call)
    return batch


def _packed(call: _Call | _Submissions) -> list[Packed]:
    """The call in RESP. What is large stays where it is: to put it together with the rest would be a copy of it, and
    take so long that others notice."""
    if call.size <= MOST_COPIED:
        return [pack_command(cast(Any, call.command()))]
    command = call.command()
    parts: list[Packed] = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes | memoryview) else str(argument).encode()
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return parts


def _library_missing(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "Function not found" in str(reply)


# redis-py has a class of its own for most errors that pass, and takes their code off the text.
_TRANSIENT = ("MISCONF", "NOREPLICAS", "BUSY", "LOADING")

_LIMITS = {
    "rate": "over the limit of {} requests per 10 s for this key, endpoint and operation",
    "at_once": "over the limit of {} requests at once for this key, endpoint and operation",
}


def refusal(what: str, most: int, ms: int) -> TooManyRequests:
    """What functions/limits.lua says of a request that was one too many; `ms` from now it is worth another try."""
    return TooManyRequests(_LIMITS[what].format(most), max(1, -(-ms // 1000)), most)


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, ResponseError) and str(error).startswith("LIMITED "):
        _, what, most, ms = str(error).split()
        return refusal(what, int(most), int(ms))
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and str(error).startswith("OOM")):
        return Unavailable("the queue store is out of memory; try again later")
    transient = isinstance(error, ReadOnlyError | TryAgainError) or (
        isinstance(error, ResponseError) and str(error).startswith(_TRANSIENT)
    )
    return Unavailable() if transient or isinstance(error, OUTAGES) else error
