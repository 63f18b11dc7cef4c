"""What the handler's process does with the jobs that it takes."""

import json
from collections.abc import Callable
from typing import Any, Protocol

from .home import Home
from .hosts import Host, LoopHost, OnEnd, ThreadHost
from .job import Job
from .links import TakenJob
from .outcomes import Limits
from .runners import HandlerConfig, JobRun, Run

AnyJob = Job[Any]


class Work(Protocol):
    """is_async: jobs run in the loop, so that one that has begun runs in a later turn."""

    @property
    def is_async(self) -> bool: ...

    def host(self, home: Home, on_end: OnEnd[AnyJob], on_concurrency: Callable[[int], None]) -> Host[AnyJob]:
        """Where the jobs run. `on_concurrency` gets the number of jobs at once, when that is not one or has changed."""

    def read(self, taken: TakenJob) -> dict[str, Any]:
        """A job as `run` takes it. Raises ValueError or RecursionError when it cannot be read."""

    def run(self, fields: dict[str, Any], job: AnyJob, limits: Limits, worker: str) -> JobRun:
        """One attempt of the job, which is run by nobody yet."""


class HandlerWork:
    """Runs the author's handler in this process."""

    def __init__(self, config: HandlerConfig) -> None:
        self._config = config

    @property
    def is_async(self) -> bool:
        return self._config.kind.is_async

    def host(self, home: Home, on_end: OnEnd[AnyJob], on_concurrency: Callable[[int], None]) -> Host[AnyJob]:
        if self.is_async:
            return LoopHost(self._config, on_end, on_concurrency)
        return ThreadHost(self._config, home, on_end, on_concurrency)

    def read(self, taken: TakenJob) -> dict[str, Any]:
        attempt = taken.attempt
        own = {"id": attempt.job, "input": json.loads(taken.input or b"null"), "attempt": attempt.number}
        return {**json.loads(taken.request or b"{}"), **own}

    def run(self, fields: dict[str, Any], job: AnyJob, limits: Limits, worker: str) -> Run:
        return Run(self._config, fields, job, limits, worker)
