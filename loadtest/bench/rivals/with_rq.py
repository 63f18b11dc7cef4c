"""rq's jobs."""

from redis import Redis
from rq import Queue

from loadtest.bench.rivals import counting, given

AT_ONCE = 1000


def noop() -> None:
    """The job."""
    counting.one_job()


def enqueue() -> None:
    """Queues the jobs, so many in a pipeline. They leave nothing behind and have no time limit."""
    queue = Queue(connection=Redis.from_url(given.store_url), serializer="rq.serializers.JSONSerializer")
    job = Queue.prepare_data("loadtest.bench.rivals.with_rq.noop", result_ttl=0, timeout=-1)
    for done in range(0, given.count, AT_ONCE):
        queue.enqueue_many([job] * min(AT_ONCE, given.count - done))


if __name__ == "__main__":
    enqueue()
