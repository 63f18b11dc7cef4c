"""POST /runsync."""

from ..recorder import Trial
from .following import follow
from .scenario import Scenario

WAIT_MS = (1_000, 300_000)
"""What `?wait=` can be."""

SHARE_TO_WAIT = 0.9
"""Of what is left of the timeout, for the answer that a job is unfinished to come within it."""


class RunSync(Scenario):
    """Has a job done; its latency ends with the job. One that takes longer than /runsync waits is followed."""

    async def perform(self, trial: Trial) -> None:
        least, most = WAIT_MS
        left = self.plan.timeout - trial.seconds
        wait = min(most, max(least, round(left * 1000 * SHARE_TO_WAIT)))
        job = await self.endpoint.job("POST", f"/runsync?wait={wait}", self.next_body())
        trial.accepted = True
        trial.recorder.count("jobs")
        if not job.final:
            job = await follow(self.endpoint, trial, job.id)
        job.record_times(trial)
        job.check()
        trial.answered()
