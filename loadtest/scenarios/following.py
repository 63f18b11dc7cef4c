"""Jobs that were submitted, until they are final."""

import asyncio

from ..endpoint import Endpoint, Job
from ..errors import Failed, of_status
from ..recorder import Trial

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between looks at a job: twice as many each time."""

TOO_MANY = of_status(429)


async def look(endpoint: Endpoint, trial: Trial, operation: str, id: str) -> Job:
    """As `Endpoint.about`, but one that is answered 429 is repeated when its Retry-After says: the job goes on."""
    while True:
        try:
            return await endpoint.about(operation, id)
        except Failed as failure:
            if failure.kind != TOO_MANY:
                raise
            trial.recorder.count("throttled_polls")
            told = LONGEST_PAUSE if failure.retry_after is None else failure.retry_after
            await asyncio.sleep(max(FIRST_PAUSE, told))


async def follow(endpoint: Endpoint, trial: Trial, id: str) -> Job:
    """Looks at /status until the job is final."""
    pause = FIRST_PAUSE
    while not (job := await look(endpoint, trial, "status", id)).final:
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return job
