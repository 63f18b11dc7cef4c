"""What workers say and ask over HTTP, and what they get."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ..engine.endpoints import LARGEST_WHOLE
from ..engine.polls import Stop
from ..engine.queue_config import SubQueueName
from ..engine.roster import Metrics
from ..engine.telemetry import MOST_LINES
from ..queries import MOST_LISTED, milliseconds

LONGEST_POLL_MS = 80_000
MOST_JOBS = 1000
MOST_CHUNKS = 1000
MOST_OF_LINE = 10_000
USUAL_LINES = 200

WorkerId = Annotated[str, Meta(max_length=63, extra_json_schema={"pattern": "^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})?$"})]
Attempt = tuple[Annotated[str, Meta(max_length=64)], Annotated[int, Meta(ge=1, le=999_999_999)]]
Attempts = Annotated[list[Attempt], Meta(max_length=10_000, description="jobs, and the numbers of their attempts")]
Chunks = Annotated[list[Raw], Meta(max_length=MOST_CHUNKS)]


# Queries.


class Polling(msgspec.Struct):
    """Of all polls."""

    wait: Annotated[int, milliseconds(0, LONGEST_POLL_MS, "time to wait, in ms")] | UnsetType = UNSET


class Taking(Polling):
    """Of /job-take."""

    job_in_progress: Annotated[str, Meta(description="0: the worker has none, whatever it was given")] = ""
    queues: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._ -]{0,6500}$",
            description="takes jobs of these alone: as the answer to the registration named them",
            extra={"wanted": "as the answer to the registration named them"},
        ),
    ] = ""


class BatchTaking(Taking):
    """Of /job-take-batch."""

    batch_size: Annotated[int, Meta(ge=1, le=MOST_JOBS, description="jobs to take at most")] = 1


class Attempted(msgspec.Struct):
    """Of all that is said of a job."""

    attempt: (
        Annotated[int, Meta(ge=1, le=999_999_999, description="which attempt it is; of RunPod's SDK: the worker's own")]
        | UnsetType
    ) = UNSET


class Streaming(Attempted):
    """Of /job-stream."""

    first: Annotated[int, Meta(ge=1, le=10**15, description="the number of the first chunk in this attempt")] = 1


class Ending(Attempted):
    """Of /job-done."""

    isStream: Annotated[str, Meta(description="true: the handler is a generator")] = ""


class Sign(msgspec.Struct):
    """Of /ping by RunPod's SDK."""

    job_id: Annotated[str, Meta(description="the worker's jobs, separated by commas")] = ""
    status: Annotated[str, Meta(description="unhealthy, or anything else")] = ""
    check: str = "a check"
    reason: str = "failed"
    runpod_version: str = ""
    gpu: str = ""


class WorkerListing(msgspec.Struct):
    """Of /workers."""

    limit: Annotated[int, Meta(ge=0, le=MOST_LISTED, description="the most workers of a page")] = 100
    cursor: Annotated[int, Meta(ge=0, le=10**9, description="`next` of the page before")] = 0


class LogReading(msgspec.Struct):
    """Of the log of a worker."""

    n: Annotated[int, Meta(ge=1, le=MOST_LINES, description="so many of the newest lines")] = USUAL_LINES


LAST_EVENT_ID = {
    "Last-Event-ID": Annotated[
        str, Meta(pattern="^([0-9]{1,15}-[0-9]{1,15})?$", description="of an event stream: goes on behind this event")
    ]
}


# Bodies.


class Registration(msgspec.Struct):
    """A worker. `restarted`: whatever one of this id had goes back to the queue; `queues`: the sub-queues whose jobs
    alone it is to take, if not those of all."""

    id: WorkerId | None = None
    description: dict[str, Raw] = {}
    link: Literal["redis", "http"] = "redis"
    restarted: bool = False
    queues: Annotated[list[SubQueueName], Meta(max_length=100)] = []


class Renewal(msgspec.Struct):
    """A sign of life of our SDK. `gone_ms`: after so long without another one, the worker is gone; `attempts`: those
    that it has."""

    gone_ms: Annotated[int, Meta(ge=1000, le=86_400_000)]
    concurrency: Annotated[int, Meta(ge=0, le=1_000_000)]
    state: Annotated[str, Meta(pattern="^[a-z_]{1,20}$")]
    description: dict[str, Raw] | None = None
    attempts: Attempts = []


PrintedLine = tuple[
    Annotated[int, Meta(ge=0, le=86_400_000)],
    Literal["stdout", "stderr"],
    Annotated[str, Meta(max_length=MOST_OF_LINE)],
]


class Told(msgspec.Struct):
    """How busy the worker's machine is, and what it has printed. `run`: a word for this process of the worker; `first`:
    the number of the first line among all that the process has printed; `lines`: the age of each in ms, where it was
    printed, and its text. Lines that were told before are left out."""

    run: Annotated[str, Meta(pattern="^[A-Za-z0-9]{1,32}$")]
    first: Annotated[int, Meta(ge=1, le=LARGEST_WHOLE)] = 1
    lines: Annotated[list[PrintedLine], Meta(max_length=MOST_LINES)] = []
    metrics: Metrics | None = None


class Kept(msgspec.Struct):
    """What a worker has; whatever else it was given before its poll of this number goes back."""

    attempts: Attempts
    number: Annotated[int, Meta(ge=0, le=LARGEST_WHOLE)] = 0


class Loss(msgspec.Struct):
    """Why an attempt is given up."""

    error: str


class Output(msgspec.Struct):
    """A chunk, as RunPod's SDK sends it."""

    output: Raw | UnsetType = UNSET


class Result(msgspec.Struct):
    """The end of a job, or with the status IN_PROGRESS its progress. `stopPod`: the worker ends with it. Whatever
    cannot be taken makes the job FAILED, and says why."""

    output: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    status: Raw | UnsetType = UNSET
    stopPod: Raw | UnsetType = UNSET


# Answers.


class JobGiven(msgspec.Struct):
    """A job to run, with the other fields of its request. `retries`: the attempts before this one."""

    id: str
    attempt: int
    retries: int
    input: Raw


class Stops(msgspec.Struct):
    """Jobs to stop: their ids, for RunPod's SDK, and the same with their attempts and states."""

    jobsToStop: list[str]
    stops: list[Stop]


class Heard(msgspec.Struct):
    """Whether what was said counts; else the state that the job was found in."""

    status: Literal["OK", "STALE"]
    state: str | UnsetType = UNSET


class Lapsed(msgspec.Struct):
    """The attempts that the worker holds no longer."""

    lapsed: list[Stop]


class WorkerObject(msgspec.Struct):
    """A worker. `trouble`: why it is unhealthy, if it said so; `currentJobs`: the ids of some of its jobs; `startedAt`
    and `lastSeen`: in ms since the epoch; `gpu`, `sdk` and `description` are what it says of itself."""

    id: str
    state: str
    crashLoop: bool
    trouble: str | None
    jobsInHand: int
    currentJobs: list[str]
    concurrency: int | None
    startedAt: int | None
    lastSeen: int | None
    metrics: Metrics | None
    gpu: Raw | None
    sdk: Raw | None
    link: str
    description: dict[str, Raw]


class WorkerPage(msgspec.Struct):
    """Workers; `next` is the cursor of the next page, null at the end."""

    workers: list[WorkerObject]
    next: str | None


class PrintedAt(msgspec.Struct):
    """A line that a worker or its handler printed; `at` is in ms since the epoch."""

    at: int
    stream: Literal["stdout", "stderr"]
    text: str


class WorkerLog(msgspec.Struct):
    """Lines, the oldest first."""

    lines: list[PrintedAt]
    count: int


class Registered(msgspec.Struct):
    """How a worker works at the store: with this user, these functions and keys; without `redis`, over HTTP. Limits are
    in bytes. `queues`: what the worker is to say whenever it asks for jobs."""

    worker: str
    redis: dict[str, Any] | None
    library: str
    base: str
    lease_ms: int
    output_limit: int
    chunk_limit: int
    queues: str


class Dismissed(msgspec.Struct):
    """How many jobs went back to the queue."""

    returned: int


class WorkerSettings(msgspec.Struct):
    """What a worker's environment has to say."""

    endpoint: str
    pingIntervalMs: int
