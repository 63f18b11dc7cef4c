"""taskiq's worker and its jobs."""

import asyncio

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

from loadtest.bench.rivals import counting, given

broker = RedisStreamBroker(given.store_url).with_serializer(ORJSONSerializer())


@broker.task(task_name="noop")
async def noop() -> None:
    """The job."""
    counting.one_job()


async def enqueue() -> None:
    """Queues the jobs; there is no call for many."""
    await broker.startup()
    await given.in_parallel(noop.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(enqueue())
