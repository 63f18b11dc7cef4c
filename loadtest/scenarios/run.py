"""POST /run."""

from ..endpoint import Job
from ..recorder import Trial
from ..timings import JOB
from .following import follow
from .scenario import Scenario


class Run(Scenario):
    """Submits a job; its latency ends with that answer. Then the job is followed."""

    async def perform(self, trial: Trial) -> None:
        job = await self.submit(trial)
        trial.answered(awaited=JOB if self.plan.follow else "")
        if not self.plan.follow:
            return
        job = await follow(self.endpoint, trial, job.id)
        job.record_times(trial)
        job.check()
        trial.since_intended(JOB)

    async def submit(self, trial: Trial) -> Job:
        """POST /run."""
        return await self.endpoint.submit(trial, self.next_body())
