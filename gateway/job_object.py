"""The job as clients see it: https://docs.runpod.io/serverless/endpoints/operations"""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .engine.engine import Job, State, Workers
from .engine.jobs import MOST_COPIED
from .http import Reply


class JobState(msgspec.Struct):
    """Where a job stands; how long it waited and ran, in ms, as far as that is known."""

    id: str
    status: State
    delayTime: int | UnsetType = UNSET
    executionTime: int | UnsetType = UNSET


class JobObject(JobState):
    """A job. The output is what the handler gave, or its progress while the job runs; of a job that waits there is its
    position in the queue (null while a retry is delayed), and why it waits."""

    workerId: str | UnsetType = UNSET
    output: Raw | UnsetType = UNSET
    error: str | UnsetType = UNSET
    position: int | UnsetType | None = UNSET
    reason: str | UnsetType = UNSET
    workers: Workers | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode


def job_object(job: Job) -> bytes:
    """The job as /status, /runsync and webhooks show it; output and progress are the worker's own bytes."""
    output = _output_of(job)
    return _encoded(job, None if output is None else Raw(output))


def job_reply(job: Job) -> Reply:
    """The answer with the job."""
    output = _output_of(job)
    if output is None or len(output) <= MOST_COPIED:
        return Reply(_encoded(job, None if output is None else Raw(output)))
    return Reply((_encoded(job, None)[:-1] + b',"output":', output, b"}"))


def _output_of(job: Job) -> bytes | None:
    return job.progress if job.state is State.IN_PROGRESS else job.output


def _encoded(job: Job, output: Raw | None) -> bytes:
    found = JobObject(job.id, job.state, *times_of(job))
    if job.worker is not None:
        found.workerId = job.worker
    if output is not None:
        found.output = output
    if job.error is not None:
        found.error = job.error
    if job.queued is not None:
        found.position = job.queued.position
        found.reason = job.queued.reason
        found.workers = job.queued.workers
    return _encode(found)


def times_of(job: Job) -> tuple[int | UnsetType, int | UnsetType]:
    """How long the job waited and ran, in ms, as far as that is known."""
    if job.started is None:
        return UNSET, UNSET
    return job.started - job.created, UNSET if job.finished is None else job.finished - job.started
