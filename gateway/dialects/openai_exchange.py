"""A request and the job that it became: when one of them ends, so does the other."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from ..engine.engine import Engine, Job, Submission
from ..engine.following import Arrived, Follower
from ..engine.wakeups import Watch
from ..errors import HungUp, Unavailable
from ..http import Call


class Exchange:
    """What becomes of the job, for the client that waits. `deadline`: until when it does, by the monotonic clock;
    `is_complete`: there is nothing more to come for it, so that the job may go on to its end."""

    def __init__(self, follower: Follower, watch: Watch, deadline: float) -> None:
        self.deadline = deadline
        self.is_complete = False
        self._follower = follower
        self._watch = watch
        self._client_is_gone = False

    async def next(self, seconds: float) -> Arrived | Job | None:
        """See `Follower.next`.

        Raises:
            HungUp: the client has.
            Unavailable: this process is going.
            NotFound: the job is gone.
        """
        found = await self._follower.next(seconds)
        if found is None and self._watch.ended:
            raise HungUp("the client hung up") if self._client_is_gone else _ending()
        self.is_complete = isinstance(found, Job)
        return found

    async def end_with(self, call: Call) -> None:
        """Ends the waiting when the client hangs up."""
        await call.hang_up()
        self._client_is_gone = True
        self._watch.end()


@contextlib.asynccontextmanager
async def submitted(engine: Engine, call: Call, job: Submission, wait_seconds: float) -> AsyncIterator[Exchange]:
    """Submits the job; cancels it at the end, unless it is final by then: nobody else would want it.

    Raises:
        Unavailable: the store cannot be reached, or this process is going.
        NotFound: no such endpoint.
    """
    await engine.wakeups.subscribe(call.endpoint)
    with engine.wakeups.watch(call.endpoint, job.id) as watch:
        if watch.ended:
            raise _ending()
        follower = Follower(engine, call.endpoint, job.id, watch, is_new=True)
        exchange = Exchange(follower, watch, time.monotonic() + wait_seconds)
        hanging_up = asyncio.create_task(exchange.end_with(call))
        try:
            await engine.submit(call.endpoint, job, watch=True, limit=call.limit)
            yield exchange
        finally:
            hanging_up.cancel()
            if not exchange.is_complete:
                engine.cancel_soon(call.endpoint, job.id)


def _ending() -> Unavailable:
    return Unavailable("this gateway is about to end; try again")
