"""saq's worker and its jobs."""

import asyncio

import uvloop
from saq import Queue

from loadtest.bench.rivals import counting, given

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

queue = Queue.from_url(given.store_url)


async def noop(_context: object) -> None:
    """The job."""
    counting.one_job()


settings = {"queue": queue, "functions": [noop], "concurrency": given.CONCURRENCY}


async def enqueue() -> None:
    """Queues the jobs; there is no call for many. They leave nothing behind (ttl -1) and have no time limit."""
    await queue.connect()
    await given.in_parallel(lambda: queue.enqueue("noop", ttl=-1, timeout=0))
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(enqueue())
