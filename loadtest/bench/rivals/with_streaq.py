"""streaq's worker and its jobs."""

import anyio
import coredis
from streaq import Worker

from loadtest.bench.rivals import counting, given

coredis.Config.optimized = True

worker = Worker(given.store_url, concurrency=given.CONCURRENCY, anyio_kwargs={"use_uvloop": True})


@worker.task(ttl=0, silent=True)
async def noop() -> None:
    """The job."""
    counting.one_job()


async def enqueue() -> None:
    """Queues the jobs, in one pipeline."""
    async with worker:
        await worker.enqueue_many([noop.enqueue() for _ in range(given.count)])


if __name__ == "__main__":
    anyio.run(enqueue)
