"""POST /run, then GET /stream/{id} until the job is final, as RunPod's JavaScript client does it."""

import asyncio
import time

from ..recorder import Trial
from ..timings import CHUNK_GAP, FIRST_CHUNK
from .following import look
from .scenario import Scenario

QUICK = 0.05
PAUSE = 0.1
"""Seconds: who says sooner than `QUICK` that there is nothing does not hold polls, and is asked again after `PAUSE`."""


class Stream(Scenario):
    """Follows a job's chunks; its latency ends with the answer that shows the job's end."""

    async def perform(self, trial: Trial) -> None:
        job = await self.endpoint.submit(trial, self.next_body())
        last: float | None = None
        while True:
            asked = time.monotonic()
            found = await look(self.endpoint, trial, "stream", job.id)
            now = time.monotonic()
            for _ in found.stream:
                if last is None:
                    trial.since_intended(FIRST_CHUNK)
                else:
                    trial.recorder.value(CHUNK_GAP, now - last)
                last = now
            trial.recorder.count("chunks", len(found.stream))
            if found.final:
                break
            if not found.stream and now - asked < QUICK:
                await asyncio.sleep(PAUSE)
        found.record_times(trial)
        found.check()
        trial.answered()
