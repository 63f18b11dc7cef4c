"""What the measurement tells the programs of each library, by their environment."""

import asyncio
import os
from collections.abc import Awaitable, Callable

STORE = "RIVALS_STORE"
"""The store's URL."""
COUNT = "RIVALS_COUNT"
"""The number of jobs."""
FILE = "RIVALS_FILE"
"""Where to write the seconds from the first job to the last."""

CONCURRENCY = 64
"""Jobs at once in the worker."""
CALLS_AT_ONCE = 64

store_url = os.environ.get(STORE, "")
count = int(os.environ.get(COUNT, "0"))
file = os.environ.get(FILE, "")


async def in_parallel(queue_one: Callable[[], Awaitable[object]]) -> None:
    """Queues the jobs of a library that takes one in a call."""
    for done in range(0, count, CALLS_AT_ONCE):
        await asyncio.gather(*(queue_one() for _ in range(min(CALLS_AT_ONCE, count - done))))
