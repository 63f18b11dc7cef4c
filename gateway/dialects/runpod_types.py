"""What RunPod's clients send, and what they get: https://docs.runpod.io/serverless/endpoints/operations"""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ..engine.engine import State
from ..job_object import JobObject, JobState
from ..queries import Cursor, PageLimit, milliseconds

DEFAULT_WAIT_MS = 90_000
WAIT_MS = (1_000, 300_000)
TTL_MS = (10_000, 604_800_000)
EXECUTION_MS = (5_000, 604_800_000)
LONGEST_IDEMPOTENCY_KEY = 256


Url = Annotated[str, Meta(extra_json_schema={"format": "uri"})]


class Policy(msgspec.Struct):
    """How a job is treated; times in ms."""

    executionTimeout: Annotated[int, Meta(ge=EXECUTION_MS[0], le=EXECUTION_MS[1])] | None = None
    ttl: Annotated[int, Meta(ge=TTL_MS[0], le=TTL_MS[1])] | None = None
    lowPriority: bool = False


class JobRequest(msgspec.Struct):
    """A job to be. The webhooks are told of its end. Other fields are given to the handler beside the input."""

    input: Raw
    policy: Policy | None = None
    webhook: Url | None = None
    webhookV2: Url | None = None


class Ttl(msgspec.Struct):
    """Of /run and /status."""

    ttl: Annotated[int, milliseconds(*TTL_MS, "time to live of the job, from now on, in ms")] | UnsetType = UNSET


Waiting = Annotated[int, milliseconds(*WAIT_MS, "time to wait for the end of the job, in ms")]


class Wait(msgspec.Struct):
    """Of /status-sync."""

    wait: Waiting = DEFAULT_WAIT_MS


class TtlAndWait(Ttl):
    """Of /runsync."""

    wait: Waiting = DEFAULT_WAIT_MS


class From(msgspec.Struct):
    """Of /stream."""

    start: Annotated[int, Meta(ge=0, le=10**15, description="of events: the last chunk that is known")] = msgspec.field(
        name="from", default=0
    )


class Listing(msgspec.Struct):
    """Of /requests."""

    limit: PageLimit = 100
    status: State | UnsetType = UNSET
    cursor: Cursor | UnsetType = UNSET


IDEMPOTENCY_KEY = {
    "Idempotency-Key": Annotated[
        str,
        Meta(max_length=LONGEST_IDEMPOTENCY_KEY, description="a request with it makes one job, however often it comes"),
    ]
}
LAST_EVENT_ID = {
    "Last-Event-ID": Annotated[str, Meta(pattern="^[0-9]{0,15}$", description="as `from`, and counts before it")]
}


class Accepted(msgspec.Struct):
    """A job that is in the queue, or was found by its idempotency key."""

    id: str
    status: State


class Chunk(msgspec.Struct):
    """A piece of a job's output."""

    output: Raw


class Chunks(JobState):
    """What came of a job since the poll before. `restart`: what came before does not count, since it runs anew."""

    restart: bool | UnsetType = UNSET
    stream: list[Chunk] = msgspec.field(default_factory=list)


class Purged(msgspec.Struct):
    """How many jobs were cancelled."""

    removed: int
    status: str = "completed"


class JobCounts(msgspec.Struct):
    """Jobs: completed, failed and retried since the endpoint was made, the others now."""

    completed: int
    failed: int
    inProgress: int
    inQueue: int
    retried: int


class WorkerCounts(msgspec.Struct):
    """Workers, now. `throttled` stays 0: no worker of ours waits for a machine."""

    idle: int
    initializing: int
    ready: int
    running: int
    throttled: int
    unhealthy: int


class Health(msgspec.Struct):
    """What an endpoint does."""

    jobs: JobCounts
    workers: WorkerCounts


class Page(msgspec.Struct):
    """Jobs, the newest first; `next` is the cursor of the next page, null at the end."""

    requests: list[JobObject]
    next: str | None
