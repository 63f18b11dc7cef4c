"""arq's worker and its jobs."""

import asyncio

import uvloop
from arq import create_pool
from arq.connections import RedisSettings

from loadtest.bench.rivals import counting, given

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def noop(_context: object) -> None:
    """The job."""
    counting.one_job()


class WorkerSettings:
    """As `arq` reads them."""

    functions = (noop,)
    redis_settings = RedisSettings.from_dsn(given.store_url)
    max_jobs = given.CONCURRENCY
    poll_delay = 0
    keep_result = 0
    log_results = False


async def enqueue() -> None:
    """Queues the jobs; there is no call for many."""
    queue = await create_pool(WorkerSettings.redis_settings)
    await given.in_parallel(lambda: queue.enqueue_job("noop"))
    await queue.aclose()


if __name__ == "__main__":
    asyncio.run(enqueue())
