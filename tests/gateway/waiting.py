"""Waiting for what comes about by itself: a look again and again, until a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS = 15.0


async def eventually(look: Callable[[], Awaitable[T]], seconds: float = SECONDS) -> T:
    """What `look` returns, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.01)
    return found


def eventually_true(look: Callable[[], T], seconds: float = SECONDS) -> T:
    """The same for tests and fixtures that are not coroutines."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return found


async def still_waits(task: "asyncio.Task[Any]", seconds: float = 0.1) -> bool:
    """Whether the task has not ended after this time."""
    done, _ = await asyncio.wait({task}, timeout=seconds)
    return not done
