"""Yields so many chunks: as fast as it can, or one every so many seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import handler_sdk
from loadtest.bench.chunks import chunk


async def handler(job: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yields the chunks. The times of those that are paced do not depend on how long any of them took."""
    every = job["input"].get("every")
    began = time.perf_counter()
    for number in range(job["input"]["chunks"]):
        if every is not None:
            await asyncio.sleep(began + number * every - time.perf_counter())
        yield chunk(number)


handler_sdk.start({"handler": handler, "concurrency_modifier": lambda _: 1000})
