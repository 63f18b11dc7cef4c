"""Operations of several kinds, by their weights."""

import random
import time
from collections import deque

from ..endpoint import Endpoint, Job
from ..plan import Assignment
from ..recorder import Recorder, Trial
from .run import Run
from .runsync import RunSync
from .scenario import Scenario
from .stream import Stream

MOST_KNOWN = 1000
SECONDS_KNOWN = 600.0
"""RunPod keeps what came of a job for half an hour."""


class Known:
    """Jobs that a look can be taken at."""

    def __init__(self, seed: int) -> None:
        self._jobs: deque[tuple[float, str]] = deque(maxlen=MOST_KNOWN)
        self._random = random.Random(seed)

    def add(self, job: Job) -> None:
        """One that was just submitted."""
        self._jobs.append((time.monotonic(), job.id))

    def draw(self) -> str | None:
        """The id of one of them; None when there is none that is still kept."""
        while self._jobs and self._jobs[0][0] < time.monotonic() - SECONDS_KNOWN:
            self._jobs.popleft()
        return self._random.choice(self._jobs)[1] if self._jobs else None


class Submit(Run):
    """A /run, which remembers the job."""

    def __init__(self, endpoint: Endpoint, assignment: Assignment, known: Known) -> None:
        super().__init__(endpoint, assignment)
        self._known = known

    async def submit(self, trial: Trial) -> Job:
        job = await super().submit(trial)
        self._known.add(job)
        return job


class Status(Scenario):
    """A look at one of the newest jobs, finished or not. Where there is none, one is submitted first."""

    def __init__(self, endpoint: Endpoint, assignment: Assignment, known: Known) -> None:
        super().__init__(endpoint, assignment)
        self._known = known

    async def prepare(self) -> None:
        if self._known.draw() is None:
            self._known.add(await self.endpoint.submit(Trial(Recorder(), 0.0), self.next_body()))

    async def perform(self, trial: Trial) -> None:
        while (id := self._known.draw()) is None:
            await self.prepare()
        await self.endpoint.about("status", id)
        trial.answered()


class Cancel(Scenario):
    """A job that is cancelled as soon as it was submitted; the latency is that of both requests."""

    async def perform(self, trial: Trial) -> None:
        job = await self.endpoint.submit(trial, self.next_body())
        await self.endpoint.about("cancel", job.id, "POST")
        trial.answered()


class Mixed(Scenario):
    """Draws one of the operations each time."""

    def __init__(self, endpoint: Endpoint, assignment: Assignment) -> None:
        super().__init__(endpoint, assignment)
        known = Known(assignment.plan.seed + assignment.index)
        self._operations: dict[str, Scenario] = {
            "run": Submit(endpoint, assignment, known),
            "runsync": RunSync(endpoint, assignment),
            "stream": Stream(endpoint, assignment),
            "status": Status(endpoint, assignment, known),
            "cancel": Cancel(endpoint, assignment),
        }
        weights = assignment.plan.weights
        self._names, self._weights = list(weights), list(weights.values())
        self._random = random.Random(assignment.plan.seed - assignment.index - 1)

    async def prepare(self) -> None:
        for name in self._names:
            await self._operations[name].prepare()

    async def perform(self, trial: Trial) -> None:
        name = self._random.choices(self._names, self._weights)[0]
        if len(self._names) > 1:
            trial.operation = name
        await self._operations[name].perform(trial)
