"""What Runqy's clients and workers get."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ..engine.queue_config import QueueConfig
from ..engine.roster import Metrics
from ..queries import MOST_LISTED, PageLimit


class Message(msgspec.Struct):
    """What was done, in words."""

    message: str


class VaultSummary(msgspec.Struct):
    """A vault in a list."""

    name: str
    description: str
    entry_count: int


class VaultList(msgspec.Struct):
    """The tenant's vaults."""

    vaults: list[VaultSummary]
    count: int


class VaultName(msgspec.Struct):
    """A vault that was made."""

    name: str
    description: str


class MadeVault(Message):
    """The same, and in words."""

    vault: VaultName


class VaultEntry(msgspec.Struct):
    """An entry; the value is masked when it is secret. Times are as RFC 3339 has them."""

    key: str
    value: str
    is_secret: bool
    created_at: str
    updated_at: str


class VaultEntries(msgspec.Struct):
    """The entries of a vault, by their names."""

    entries: list[VaultEntry]
    count: int


class VaultObject(msgspec.Struct):
    """A vault with its entries."""

    name: str
    description: str
    entries: list[VaultEntry]
    created_at: str
    updated_at: str


class RotatedVaults(msgspec.Struct):
    """What a rotation came to, in entries."""

    rotated: int
    unchanged: int


class QueueSummary(msgspec.Struct):
    """A queue in a list. `enabled` is there when deleted ones are."""

    name: str
    priority: int
    enabled: bool | UnsetType = UNSET


class QueueList(msgspec.Struct):
    """Queues, by endpoint and by priority."""

    queues: list[QueueSummary]
    count: int


class QueueObject(QueueConfig, kw_only=True):
    """A queue: its name and priority, and what is set for its endpoint. Times are in s since the epoch."""

    name: str
    priority: int
    created_at: int
    updated_at: int


class MadeQueue(Message):
    """The same, and in words."""

    queue: QueueObject


class ChangedQueues(Message):
    """The queues that were switched."""

    queues: list[str]


class Reloaded(msgspec.Struct):
    """The queues that are as the files say, what went wrong, and the queues that are in them no more; s since the
    epoch."""

    reloaded: list[str]
    errors: list[str]
    removed: list[str]
    timestamp: int


class StoreAddress(msgspec.Struct):
    """Where the store is. `password` stays empty."""

    addr: str
    password: str
    db: int
    use_tls: bool


class RegisteredQueue(msgspec.Struct):
    """The queue by the name that was asked for."""

    name: str
    priority: int
    mode: str


class RegisteredDeployment(msgspec.Struct, omit_defaults=True):
    """How its code is deployed; what is empty is left out."""

    git_url: str
    branch: str
    startup_cmd: str
    mode: str
    startup_timeout_secs: int
    redis_storage: bool
    code_path: str = ""
    requirements_file: str = ""
    vaults: list[str] = []


class RegisteredEndpoint(msgspec.Struct):
    """The endpoint whose jobs they are, how long a worker of it may be silent, and the sub-queues whose jobs alone it
    is to take, if not those of all."""

    endpoint: str
    lease_ms: int
    queues: list[str]


class QueueRegistered(msgspec.Struct):
    """What a worker of a queue has to know. `vaults`: values of environment variables."""

    redis: StoreAddress
    queue: RegisteredQueue
    sub_queues: list[QueueSummary]
    deployment: RegisteredDeployment
    runlane: RegisteredEndpoint
    vaults: dict[str, str] | UnsetType = UNSET
    git_token: str | UnsetType = UNSET


class TaskRequest(msgspec.Struct):
    """A task to be added. Without `data`, all other fields are its payload. `timeout` is in s. Ours: `delay` (s) or
    `run_at`, before which it does not begin, and `unique` (a key, or true for its queue and payload)."""

    queue: Annotated[str, Meta(min_length=1)]
    data: Raw | UnsetType = UNSET
    timeout: int | None = None
    delay: float | None = None
    run_at: str | float | None = None
    unique: str | bool | None = None


class BatchRequest(msgspec.Struct):
    """Tasks to be added to one queue; each may have the fields of a single one. `timeout` is for those without."""

    queue: Annotated[str, Meta(min_length=1)]
    jobs: Annotated[list[Raw], Meta(min_length=1)]
    timeout: int | None = None


class AddedTask(msgspec.Struct):
    """A task that was added, with Runqy's fields in `info`, and the data as it was sent."""

    info: dict[str, Any]
    data: Raw


class BatchFailure(msgspec.Struct):
    """Why a task was not added, by its index."""

    index: int
    error: str


class AddedTasks(msgspec.Struct):
    """What became of the tasks of a batch."""

    enqueued: int
    failed: int
    task_ids: list[str]
    errors: list[str]
    failures: list[BatchFailure]


class TaskLookup(msgspec.Struct):
    """A task: `info` as Runqy's documents have it, `Info` as its server does."""

    info: dict[str, Any]
    Info: dict[str, Any]


class TaskObject(msgspec.Struct):
    """A task as the management shows it; `payload` and `result` are the text of their JSON."""

    id: str
    type: str
    queue: str
    state: str
    payload: str
    max_retry: int
    retried: int
    timeout: str
    last_err: str | UnsetType = UNSET
    next_process_at: str | UnsetType = UNSET
    completed_at: str | UnsetType = UNSET
    result: str | UnsetType = UNSET


class TaskPage(msgspec.Struct):
    """Tasks of a queue in a state; `next` is the cursor of the next page, null at the end."""

    tasks: list[TaskObject]
    next: str | int | None = None


class TaskDone(Message):
    """What was done with a task."""

    task_id: str


class QueueDone(Message):
    """What was done with a queue."""

    queue: str
    changed: bool | UnsetType = UNSET
    deleted: int | UnsetType = UNSET


class QueueContents(msgspec.Struct):
    """How many tasks of a queue are in which state; memory in bytes, about."""

    queue: str
    pending: int
    active: int
    scheduled: int
    retry: int
    archived: int
    completed: int
    paused: bool
    memory_usage: int


class AllQueues(msgspec.Struct):
    """All queues."""

    queues: list[QueueContents]


class RunqyWorker(msgspec.Struct):
    """A worker. `worker_id` is ENDPOINT:WORKER; times are in s since the epoch; `is_stale`: it gave no sign of life for
    30 s; `state`: what it is seen to do, in our words; `jobs`: the ids of some of its jobs; `version`, `hostname` and
    `pid` are what it says of itself."""

    worker_id: str
    started_at: int
    last_beat: int
    concurrency: int
    queues: str
    status: Literal["bootstrapping", "running", "stopped"]
    healthy: bool
    is_stale: bool
    protected: bool
    metrics: Metrics | None
    endpoint: str
    state: str
    jobs: list[str]
    version: Raw | None
    hostname: Raw | None
    pid: Raw | None


class RunqyWorkers(msgspec.Struct):
    """Workers; `next` is the cursor of the next page, null at the end."""

    workers: list[RunqyWorker]
    count: int
    next: str | None


class LogText(msgspec.Struct):
    """Lines that a worker and its handler printed, the oldest first."""

    lines: list[str]
    count: int


class RunqyWorkerListing(msgspec.Struct):
    """Of all workers."""

    limit: PageLimit = MOST_LISTED
    cursor: Annotated[
        str,
        Meta(
            pattern="^([A-Za-z0-9_-]{1,63}:[0-9]{1,9})?$",
            description="`next` of the page before",
            extra={"wanted": "what an earlier page gave as next"},
        ),
    ] = ""


class Liveness(msgspec.Struct):
    """That the process answers."""

    status: str
    timestamp: str


class Readiness(Liveness):
    """Whether the store answers too."""

    redis: bool


class TaskWait(msgspec.Struct):
    """Of one task."""

    wait: Annotated[str, Meta(description="true: answers when the task has ended")] = ""
    timeout: Annotated[
        int, Meta(ge=1, le=300, description="to wait so long at most, in s", extra={"unit": "seconds"})
    ] = 30


class TaskListing(msgspec.Struct):
    """Of the tasks of a queue."""

    state: Literal["pending", "active", "scheduled", "retry", "archived", "completed"] = "pending"
    limit: Annotated[str, Meta(description="the most tasks of a page; 10 when it is no number")] = "10"
    cursor: Annotated[int, Meta(ge=0, le=10_000, description="`next` of the page before")] = 0


class Clearing(msgspec.Struct):
    """Of the deletion of a queue's tasks."""

    force: Annotated[str, Meta(description="true: also when there are some")] = ""
