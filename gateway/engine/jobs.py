"""What is said of jobs and endpoints, to the engine and by it; and how it stands in the replies of the store's
functions."""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ..errors import NotFound


class State(enum.StrEnum):
    """The states of a job, as RunPod names them."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMED_OUT})


class Policy(msgspec.Struct, frozen=True):
    """How a job is tried that does not follow its endpoint's settings; times in ms.

    `tries`: executions at most; the n-th failure is followed by a pause of n⁴ times `backoff`; `pending`: how long it
    may wait in the queue (0: as long as it lives); `failed_retention`: how long it is kept when it has not ended well;
    `keep_output`: else its output goes to those that wait for it, and is not stored.
    """

    tries: int
    backoff: int
    pending: int
    failed_retention: int
    keep_output: bool

    def __str__(self) -> str:
        return f"{self.tries} {self.backoff} {self.pending} {self.failed_retention} {int(self.keep_output)}"


MOST_COPIED = 65536
"""Bytes of a payload, or of an output, that are copied to be put together with what is around them."""

Payload = bytes | memoryview


def payload_of(raw: msgspec.Raw) -> Payload:
    """A part of a request. A large one stays where it is."""
    view = memoryview(raw)
    return view if len(view) > MOST_COPIED else bytes(view)


class Submission(msgspec.Struct, frozen=True):
    """A job to be. `input` and `request` (the other fields of the request) are JSON; times are in ms;
    `webhooks` are told of its end, or else the endpoint's address.

    `id`: all of it, or how it begins (see ids.py): the store's function gives it a number then. A job that this process
    is to hear of has to have all of its id.
    `queue`: the engine's name of one of the endpoint's (see `queue_config.queue_of`). `delay`: ms before it is ready.
    `unique`: a key that no two jobs of an endpoint have that have not ended. `stamp`: of the settings by which it was
    checked; empty when it was not.

    `share` (whose job it is) and `weight` (1 to 1000) count on fair endpoints: the shares that have jobs waiting get
    them begun in proportion to their weights. A weight holds for the jobs that come with it.
    """

    id: str
    input: Payload
    timeout: int
    ttl: int
    retention: int
    request: bytes = b""
    idempotency_key: str = ""
    fingerprint: str = ""
    share: str = ""
    weight: int = 1
    webhooks: tuple[str, ...] = ()
    queue: str = "normal"
    policy: Policy | None = None
    delay: int = 0
    unique: str = ""
    stamp: str = ""

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return len(self.input) + len(self.request)

    def arguments(self, watcher: str) -> tuple[str | Payload | int, ...]:
        """What functions/jobs.lua takes, but for the limit."""
        return (
            self.id, self.input, self.queue, self.timeout, self.ttl,
            self.retention, self.request, watcher, self.idempotency_key, self.fingerprint, self.share, self.weight,
            " ".join(self.webhooks), self.terms,
        )  # fmt: skip

    @property
    def terms(self) -> str:
        """What the store's functions call so."""
        if not (self.stamp or self.delay or self.unique or self.policy):
            return ""
        return f"{self.stamp or '-'} {self.delay} {self.unique or '-'} {self.policy or ''}".rstrip()


class Alike(NamedTuple):
    """Jobs to be that are like one submission in all but their inputs, which are given for each, and the numbers that
    end their ids."""

    like: Submission
    inputs: Sequence[Payload]

    def arguments(self) -> list[str | Payload | int]:
        """What the function `submit_alike` of functions/jobs.lua takes."""
        like = self.like
        return [
            like.queue, like.timeout, like.ttl, like.retention, like.request, like.share, like.weight, like.terms,
            like.id, *self.inputs,
        ]  # fmt: skip


class Workers(msgspec.Struct, frozen=True):
    """How many workers of an endpoint do what."""

    initializing: int
    idle: int
    running: int
    unhealthy: int
    crashing: int


class Queued(msgspec.Struct, frozen=True):
    """Where a queued job stands. `position` counts from 1; None while it waits for its time. `paused`: its queue is not
    served now; `tried`: it has run before."""

    position: int | None
    workers: Workers
    paused: bool = False
    tried: bool = False

    @property
    def reason(self) -> str:
        """Why the job waits, in one of a few fixed words."""
        if self.position is None:
            return "retry_delayed" if self.tried else "scheduled"
        if self.paused:
            return "paused"
        if self.workers.idle or self.workers.running:
            return "at_capacity"
        if self.workers.crashing:
            return "workers_crashing"
        if self.workers.initializing:
            return "workers_initializing"
        return "workers_unhealthy" if self.workers.unhealthy else "no_workers"


class Job(msgspec.Struct, frozen=True):
    """What a client may know of a job. Times are ms since the epoch by the store's clock; output and progress are
    JSON as the worker sent it."""

    id: str
    state: State
    created: int
    started: int | None = None
    finished: int | None = None
    worker: str | None = None
    attempt: int = 0
    chunks: int = 0
    output: bytes | None = None
    error: str | None = None
    progress: bytes | None = None
    queued: Queued | None = None

    @property
    def final(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINAL


class Health(msgspec.Struct, frozen=True):
    """Counts of an endpoint; completed, failed and retried since it was made, the others now."""

    completed: int
    failed: int
    in_progress: int
    in_queue: int
    retried: int
    workers: Workers


class Reading(msgspec.Struct, frozen=True):
    """Chunks of a job from position `first` on. The newest attempt began after position `restarted`. `job` is without
    its output, error and progress."""

    job: Job
    restarted: int
    first: int
    chunks: list[bytes]


class Polling(msgspec.Struct, frozen=True):
    """Chunks that no poll has been given before. `job` is without its output, error and progress."""

    job: Job
    restarted: bool
    chunks: list[bytes]


class Task(msgspec.Struct, frozen=True):
    """A job as Runqy's clients see it.

    `state`: pending, active, scheduled, retry, archived or completed; `queue`: the engine's name; `payload`: its input,
    where it is kept, and is not too large for a list; `tries`: executions so far; `timeout`: of one, in ms; `next_at`:
    when it is ready, in ms since the epoch; `last_error` and `failed_at`: of the last failure after which it was tried
    again.
    """

    job: Job
    state: str
    queue: str
    payload: bytes | None
    tries: int
    policy: Policy | None
    timeout: int
    next_at: int | None
    last_error: str
    failed_at: int | None


class QueueCounts(msgspec.Struct, frozen=True):
    """A queue of an endpoint, with the numbers of its jobs by Runqy's states, and about how many bytes it takes."""

    queue: str
    pending: int
    active: int
    scheduled: int
    retry: int
    archived: int
    completed: int
    paused: bool
    memory: int


class Listed(msgspec.Struct, frozen=True):
    """Jobs of an endpoint; `cursor` continues the list, None at its end."""

    jobs: list[Job]
    cursor: str | None


def read_counts(row: list[Any]) -> QueueCounts:
    """A queue, as the function `queues` gives it."""
    queue, *counts, paused, memory = row
    pending, active, scheduled, retry, archived, completed = counts
    return QueueCounts(queue.decode(), pending, active, scheduled, retry, archived, completed, bool(paused), memory)


def read_task(row: list[Any]) -> Task:
    """A job, as the functions of functions/tasks.lua give it."""
    id, task_state, queue, *described = row[:10]
    tries, policy, timeout, last_error, failed, due, payload, output = row[10:]
    *described, error = described
    return Task(
        read_job(id.decode(), [*described, 0, output, error, None]),
        task_state.decode(),
        queue.decode(),
        payload,
        int(tries or 0),
        _policy(policy) if policy else None,
        int(timeout),
        int(float(due)) if due else None,
        last_error.decode(errors="replace") if last_error else "",
        int(failed) if failed else None,
    )


def _policy(text: bytes) -> Policy:
    tries, backoff, pending, failed_retention, keep_output = map(int, text.split())
    return Policy(tries, backoff, pending, failed_retention, bool(keep_output))


def read_job(id: str, reply: list[Any]) -> Job:
    """A job, as `describe` of functions/reading.lua gives it.

    Raises:
        NotFound: there is none.
    """
    if not reply:
        raise NotFound(f"no job {id}")
    state, created, started, finished, worker, attempt = reply[:6]
    chunks, output, error, progress = reply[6:10] if len(reply) > 6 else (None, None, None, None)
    queued = None
    if len(reply) > 10:
        position = reply[10]
        *workers, paused = reply[11:]
        queued = Queued(
            None if position < 0 else position + 1, Workers(*workers), paused=bool(paused), tried=bool(attempt)
        )
    return Job(
        id,
        State(state.decode()),
        int(created),
        int(started) if started else None,
        int(finished) if finished else None,
        worker.decode() if worker else None,
        int(attempt or 0),
        int(chunks or 0),
        output,
        error.decode(errors="replace") if error is not None else None,
        progress,
        queued,
    )
