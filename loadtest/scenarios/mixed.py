"""Operations of several kinds, by their weights."""

import random
from collections import deque

from ..endpoint import Endpoint, Job
from ..plan import Assignment
from ..recorder import Recorder, Trial
from .run import Run
from .runsync import RunSync
from .scenario import Scenario
from .stream import Stream

MOST_KNOWN = 1000


class Submit(Run):
    """A /run, which remembers the job."""

    def __init__(self, endpoint: Endpoint, assignment: Assignment, known: deque[str]) -> None:
        super().__init__(endpoint, assignment)
        self._known = known

    async def submit(self, trial: Trial) -> Job:
        job = await super().submit(trial)
        self._known.append(job.id)
        return job


class Status(Scenario):
    """A look at one of the newest jobs, finished or not."""

    def __init__(self, endpoint: Endpoint, assignment: Assignment, known: deque[str]) -> None:
        super().__init__(endpoint, assignment)
        self._known = known
        self._random = random.Random(assignment.plan.seed + assignment.index)

    async def perform(self, trial: Trial) -> None:
        await self.endpoint.about("status", self._random.choice(self._known))
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
        known: deque[str] = deque(maxlen=MOST_KNOWN)
        self._operations: dict[str, Scenario] = {
            "run": Submit(endpoint, assignment, known),
            "runsync": RunSync(endpoint, assignment),
            "stream": Stream(endpoint, assignment),
            "status": Status(endpoint, assignment, known),
            "cancel": Cancel(endpoint, assignment),
        }
        weights = assignment.plan.weights
        self._names, self._weights = list(weights), list(weights.values())
        self._known = known
        self._random = random.Random(assignment.plan.seed - assignment.index - 1)

    async def prepare(self) -> None:
        """There has to be a job that `status` can look at."""
        if "status" in self._names:
            trial = Trial(Recorder(), 0.0)
            self._known.append((await self.endpoint.submit(trial, self.next_body())).id)

    async def perform(self, trial: Trial) -> None:
        name = self._random.choices(self._names, self._weights)[0]
        if len(self._names) > 1:
            trial.operation = name
        await self._operations[name].perform(trial)
