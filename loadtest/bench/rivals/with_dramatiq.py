"""dramatiq's worker and its jobs. With the middleware AsyncIO and a coroutine it is slower."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from loadtest.bench.rivals import counting, given

dramatiq.set_broker(RedisBroker(url=given.store_url, middleware=[]))


@dramatiq.actor
def noop() -> None:
    """The job."""
    counting.one_job()


def enqueue() -> None:
    """Queues the jobs; there is no call for many."""
    for _ in range(given.count):
        noop.send()


if __name__ == "__main__":
    enqueue()
