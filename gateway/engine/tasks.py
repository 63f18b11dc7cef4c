"""Tasks of ours: ending them for certain, and ending them together."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def end(task: "asyncio.Task[None]") -> None:
    """Cancels the task until it is done: on Python 3.11 `asyncio.wait_for`, which redis-py uses, loses a cancellation
    that arrives just when what it waits for is done."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)


async def until_one_ends(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all side by side until one of them returns or raises; ends the others and raises what it raised."""
    tasks = [asyncio.get_running_loop().create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            await end(task)
