"""Tasks of ours: ending them for certain, and in time."""

import asyncio
import functools
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar, cast

Result = TypeVar("Result")

SECONDS_TO_CLOSE = 3.0


async def end(task: "asyncio.Task[None]") -> None:
    """Cancels the task until it is done: on Python 3.11 `asyncio.wait_for`, which redis-py uses, loses a cancellation
    that arrives just when what it waits for is done."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)


class Background:
    """Work that nobody waits for; it is held on to until it is done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Has it done from now on."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Lets it come to its end; not for long, should the store be away."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SECONDS_TO_CLOSE)
        for task in list(self._tasks):
            await end(task)


async def within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Like `asyncio.timeout`, whose timer costs a tenth of a `/run`, but starts it only if the work has to wait.

    Raises:
        TimeoutError: it was not done after `seconds`.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        return cast(Result, done.value)
    async with asyncio.timeout(seconds):
        return await _go_on(work, waits_for)


@types.coroutine
def _go_on(work: Coroutine[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    """Awaits work that has begun by hand, from its first wait on."""
    while True:
        try:
            yield waits_for
        except BaseException as error:
            go_on = functools.partial(work.throw, error)
        else:
            go_on = functools.partial(work.send, None)
        try:
            waits_for = go_on()
        except StopIteration as done:
            return cast(Result, done.value)
