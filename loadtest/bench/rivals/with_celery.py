"""celery's worker and its jobs."""

from celery import Celery

from loadtest.bench.rivals import counting, given

app = Celery("rivals", broker=given.store_url)
app.conf.update(task_ignore_result=True, worker_disable_rate_limits=True)


@app.task(name="noop")
def noop() -> None:
    """The job."""
    counting.one_job()


def enqueue() -> None:
    """Queues the jobs, over one connection; there is no call for many."""
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(given.count):
            noop.apply_async(producer=producer)


if __name__ == "__main__":
    enqueue()
