"""Ending a task of ours for certain."""

import asyncio


async def end(task: "asyncio.Task[None]") -> None:
    """Cancels the task until it is done: on Python 3.11 `asyncio.wait_for`, which redis-py uses, loses a cancellation
    that arrives just when what it waits for is done."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)
