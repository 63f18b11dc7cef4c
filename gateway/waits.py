"""Requests that wait for the end of a job."""

import contextlib
import time
from collections.abc import Iterator

from .engine.engine import Engine, Job
from .engine.following import job_of
from .engine.wakeups import Chunks, Final, Watch
from .errors import Unavailable
from .http import Call


@contextlib.contextmanager
def watching(engine: Engine, call: Call, endpoint: str, job: str) -> Iterator[Watch]:
    """What happens to a job, until the client hangs up: it need not be kept, nor count as under way. `listen` comes
    before."""
    with engine.wakeups.watch(endpoint, job) as watch:
        if call.connection is not None:
            call.connection.expect_hang_up(watch.end)
        yield watch


async def until_final(engine: Engine, endpoint: str, job: str, watch: Watch, seconds: float, path: str) -> Job:
    """The job when it is final, or as it is when the time to wait is over.

    Args:
        watch: of this job, open from before the last look at it.
        seconds: to wait.
        path: where to ask for the job later.

    Raises:
        Unavailable: the time is over, and the store is away.
    """
    deadline = time.monotonic() + seconds
    while (event := await watch.next(deadline - time.monotonic())) is not None:
        if isinstance(event, Final):
            return job_of(job, event)
        if not isinstance(event, Chunks):
            with contextlib.suppress(Unavailable):  # the subscription comes back with the store, and wakes us
                found = await engine.status(endpoint, job, watch=True)
                if found.final:
                    return found
    try:
        found = await engine.status(endpoint, job)
    except Unavailable:
        raise Unavailable(f"the queue store is not available; the job goes on: ask for {path}") from None
    await unwatch(engine, endpoint, found)
    return found


async def unwatch(engine: Engine, endpoint: str, job: Job) -> None:
    """Ends this process's interest in a job, unless another request waits for it."""
    if not job.final and not engine.wakeups.watched(endpoint, job.id):
        await engine.unwatch(endpoint, job.id)
