"""The job as clients see it: https://docs.runpod.io/serverless/endpoints/operations"""

from typing import Any

import msgspec
import orjson

from .engine.engine import Job, State


def job_object(job: Job) -> bytes:
    """The job as /status, /runsync and webhooks show it; output and progress are the worker's own bytes."""
    fields: dict[str, Any] = {"id": job.id, "status": job.state, **times_of(job)}
    if job.worker is not None:
        fields["workerId"] = job.worker
    output = job.progress if job.state is State.IN_PROGRESS else job.output
    if output is not None:
        fields["output"] = orjson.Fragment(output)
    if job.error is not None:
        fields["error"] = job.error
    if job.queued is not None:
        fields["position"] = job.queued.position
        fields["reason"] = job.queued.reason
        fields["workers"] = job.queued.workers
    return orjson.dumps(fields, default=msgspec.to_builtins)


def times_of(job: Job) -> dict[str, int]:
    """How long the job waited and ran, in ms, as far as that is known."""
    times = {}
    if job.started is not None:
        times["delayTime"] = job.started - job.created
        if job.finished is not None:
            times["executionTime"] = job.finished - job.started
    return times
