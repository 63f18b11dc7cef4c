"""Group commit: the calls that come up in one turn of the event loop go to the store together.

A request alone is sent at once. Under load, what comes in while calls are under way waits for the next turn and goes
out as one pipeline, and all submissions to one endpoint among it as one function call: the round trips and the client
library's work for each are what costs otherwise. The store executes each call atomically, batched or not.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from ..errors import Unavailable
from ..store import LIBRARY, OUTAGES, Store

Argument = str | bytes | int
MOST_UNDER_WAY = 4
MOST_IN_PIPELINE = 512
MOST_BYTES_IN_CALL = 4 * 1024 * 1024


class Batcher:
    """Sends function calls to the store, those of one turn of the event loop together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._calls: list[_Call] = []
        self._submissions: dict[str, _Submissions] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def call(self, base: str, function: str, *arguments: Argument) -> "asyncio.Future[Any]":
        """Calls one function. The future gets its reply, or `Unavailable` when the store is out of reach."""
        call = _Call(base, function, arguments)
        self._calls.append(call)
        self._schedule()
        return call.future

    def submit(self, base: str, arguments: Sequence[Argument]) -> "asyncio.Future[Any]":
        """Submits one job; its reply is the job's own part of what the function `submit` returns."""
        submissions = self._submissions.get(base)
        if submissions is None:
            submissions = self._submissions[base] = _Submissions(base)
        future = submissions.add(arguments)
        if submissions.size >= MOST_BYTES_IN_CALL:
            self._calls.append(self._submissions.pop(base))
        self._schedule()
        return future

    async def close(self) -> None:
        """Waits for the calls under way."""
        await asyncio.gather(*self._under_way)

    def _schedule(self) -> None:
        if not self._scheduled and len(self._under_way) < MOST_UNDER_WAY:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        self._calls += self._submissions.values()
        self._submissions = {}
        batch, self._calls = self._calls[:MOST_IN_PIPELINE], self._calls[MOST_IN_PIPELINE:]
        if not batch:
            return
        task = asyncio.get_running_loop().create_task(self._send(batch))
        self._under_way.add(task)
        task.add_done_callback(self._sent)
        if self._calls:
            self._schedule()

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if self._calls or self._submissions:
            self._schedule()

    async def _send(self, batch: "list[_Call]") -> None:
        try:
            replies = await self._execute(batch)
            missing = [i for i, reply in enumerate(replies) if _library_missing(reply)]
            if missing:
                # The store was emptied or replaced. A function that was not found has done nothing: call it again.
                await self._store.load_library()
                for i, reply in zip(missing, await self._execute([batch[i] for i in missing]), strict=True):
                    replies[i] = reply
        except BaseException as error:
            replies = [error] * len(batch)
        for call, reply in zip(batch, replies, strict=True):
            call.resolve(_translated(reply) if isinstance(reply, BaseException) else reply)

    async def _execute(self, batch: "list[_Call]") -> list[Any]:
        pipeline = cast(Any, self._store.commands).pipeline(transaction=False)
        for call in batch:
            pipeline.execute_command("FCALL", f"{LIBRARY}_{call.function}", 1, call.base, *call.arguments)
        return cast(list[Any], await pipeline.execute(raise_on_error=False))


class _Call:
    def __init__(self, base: str, function: str, arguments: Sequence[Argument]) -> None:
        self.base = base
        self.function = function
        self.arguments = arguments
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def resolve(self, reply: Any) -> None:
        _settle(self.future, reply)


class _Submissions(_Call):
    """The submissions to one endpoint: one call, a future for each job."""

    def __init__(self, base: str) -> None:
        super().__init__(base, "submit", [])
        self._futures: list[asyncio.Future[Any]] = []
        self._gathered: list[Argument] = []
        self.arguments = self._gathered
        self.size = 0

    def add(self, arguments: Sequence[Argument]) -> "asyncio.Future[Any]":
        self._gathered.extend(arguments)
        self.size += sum(len(argument) for argument in arguments if not isinstance(argument, int))
        self._futures.append(asyncio.get_running_loop().create_future())
        return self._futures[-1]

    def resolve(self, reply: Any) -> None:
        replies = reply if isinstance(reply, list) else [reply] * len(self._futures)
        for future, part in zip(self._futures, replies, strict=True):
            _settle(future, part)


def _settle(future: "asyncio.Future[Any]", reply: Any) -> None:
    if future.done():
        return  # whoever asked has gone away
    if isinstance(reply, BaseException):
        future.set_exception(reply)
    else:
        future.set_result(reply)


def _library_missing(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "Function not found" in str(reply)


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, OutOfMemoryError):
        return Unavailable("the queue store is out of memory; try again later")
    transient = isinstance(error, ResponseError) and str(error).startswith(
        ("LOADING", "MASTERDOWN", "READONLY", "MISCONF", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "OOM")
    )
    if transient or isinstance(error, OUTAGES):
        return Unavailable()
    if isinstance(error, RedisError):
        return error
    return error
