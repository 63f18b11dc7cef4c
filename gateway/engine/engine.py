"""Typed calls to the functions in functions/*.lua. One `Engine` serves a whole gateway process."""

import asyncio
import enum
import time
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from ..errors import Conflict, NotFound, TooManyRequests, Unavailable
from ..store import Store
from . import keys
from .batching import Batcher, refusal
from .tasks import Background
from .wakeups import Wakeups

SECONDS_TO_CANCEL = 300.0
"""For so long a job that nobody waits for is cancelled again, while the store is away."""

Limit = str
"""How many requests there may be, as functions/limits.lua takes it; empty when there is no limit."""

BYTES_TO_READ = 262_144
"""A reader that stops reading holds on to so many bytes of a stream, and all calls wait while they come."""


class State(enum.StrEnum):
    """The states of a job, as RunPod names them."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMED_OUT})


class Submission(msgspec.Struct, frozen=True):
    """A job to be. `input` and `request` (the other fields of the request) are JSON; times are in ms;
    `webhooks` are told of its end, or else the endpoint's address.

    `share` (whose job it is) and `weight` (1 to 1000) count on fair endpoints: the shares that have jobs waiting get
    them begun in proportion to their weights. A weight holds for the jobs that come with it.
    """

    id: str
    input: bytes
    timeout: int
    ttl: int
    retention: int
    request: bytes = b""
    low_priority: bool = False
    idempotency_key: str = ""
    fingerprint: str = ""
    share: str = ""
    weight: int = 1
    webhooks: tuple[str, ...] = ()


class Workers(msgspec.Struct, frozen=True):
    """How many workers of an endpoint do what."""

    initializing: int
    idle: int
    running: int
    unhealthy: int
    crashing: int


class Queued(msgspec.Struct, frozen=True):
    """Where a queued job stands. `position` counts from 1; None while it waits for a delayed retry."""

    position: int | None
    workers: Workers

    @property
    def reason(self) -> str:
        """Why the job waits, in one of a few fixed words."""
        if self.position is None:
            return "retry_delayed"
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


class Worker(msgspec.Struct, frozen=True):
    """A worker that is alive. `seen`: its last sign of life, in ms since the epoch; `link`: "http" when it comes
    through a gateway; `trouble`: why it is unhealthy, if it said so; `description`: JSON, of itself; `key`:
    the id of the key that it registered with."""

    id: str
    state: str
    jobs: int
    seen: int | None
    concurrency: int | None
    link: str | None
    trouble: str | None
    description: bytes | None
    key: str | None


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


class Listed(msgspec.Struct, frozen=True):
    """Jobs of an endpoint; `cursor` continues the list, None at its end."""

    jobs: list[Job]
    cursor: str | None


class Engine:
    """The operations on jobs and endpoints."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.batcher = Batcher(store)
        self.wakeups = Wakeups(store)
        self.background = Background()

    async def close(self) -> None:
        """Ends what runs in the background; the store stays open."""
        await self.background.close()
        await self.wakeups.close()
        await self.batcher.close()

    async def listen(self, endpoint: str) -> None:
        """Has this process hear of the endpoint's jobs; a look at one, or its submission, comes after that.

        Raises:
            NotFound: no such endpoint. To those that are none nobody subscribes: there is no end of them.
            Unavailable: the store cannot be reached.
        """
        if not self.wakeups.hears(endpoint) and not await self._call(endpoint, "settings"):
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        await self.wakeups.subscribe(endpoint)

    async def submit(self, endpoint: str, job: Submission, watch: bool = False, limit: Limit = "") -> tuple[str, State]:
        """Puts a job into the queue, or finds the one that its idempotency key made before.

        Args:
            endpoint: the endpoint's name.
            job: the job.
            watch: whether this process wants to hear of the job; `listen` comes first.
            limit: of the requests, as of all operations that take one.

        Returns:
            The job's id and state.

        Raises:
            NotFound: no such endpoint.
            Conflict: the idempotency key was used with another body, or for a job that is forgotten.
            TooManyRequests: over the limit, or as many jobs wait as the endpoint lets.
            Unavailable: the store cannot be reached; the job may have been stored all the same.
        """
        watcher = self.wakeups.process if watch else ""
        reply = await self.batcher.submit(
            keys.base(endpoint),
            (job.id, job.input, "low" if job.low_priority else "normal", job.timeout, job.ttl, job.retention,
             job.request, watcher, job.idempotency_key, job.fingerprint, job.share, job.weight,
             " ".join(job.webhooks)),
            limit,
            len(job.input) + len(job.request),
        )  # fmt: skip
        if reply == b"NEW":
            return job.id, State.IN_QUEUE
        if reply == b"NO_ENDPOINT":
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        match reply[0]:
            case b"LIMITED":
                raise refusal(reply[1].decode(), reply[2], reply[3])
            case b"FULL":
                raise TooManyRequests(
                    f"the queue of endpoint {keys.id_of(endpoint)} is full: {reply[1]} jobs wait", 1, reply[1]
                )
            case b"SAME":
                return reply[1].decode(), State(reply[2].decode())
            case b"CONFLICT":
                raise Conflict(f"this Idempotency-Key was used with another body, for job {reply[1].decode()}")
            case _:
                raise Conflict(
                    f"job {reply[1].decode()} of this Idempotency-Key has ended and its result is no longer kept"
                )

    async def status(self, endpoint: str, job: str, watch: bool = False, limit: Limit = "") -> Job:
        """The job as it is now; with `watch`, this process hears of what comes next.

        Raises:
            NotFound: no such job in this endpoint.
        """
        return _job(job, await self._call(endpoint, "status", job, self.wakeups.process if watch else "", limit=limit))

    async def event(self, endpoint: str, delivery: str, job: str) -> Job:
        """The job as it was at its end, for the delivery of a webhook.

        Raises:
            NotFound: it is kept no longer.
        """
        return _job(job, await self._call(endpoint, "webhook_event", delivery))

    async def unwatch(self, endpoint: str, job: str) -> None:
        """Ends this process's interest in the job."""
        await self._call(endpoint, "unwatch", job, self.wakeups.process)

    async def read(self, endpoint: str, job: str, after: int, count: int = 256, limit: Limit = "") -> Reading:
        """Chunks after a position, and a watch for the next.

        Raises:
            NotFound: no such job in this endpoint.
        """
        reply = await self._call(endpoint, "read", job, after, count, BYTES_TO_READ, self.wakeups.process, limit=limit)
        described, restarted, first, chunks = reply or ([], 0, 0, [])
        return Reading(_job(job, described), restarted, first, chunks)

    async def poll(self, endpoint: str, job: str, limit: Limit = "") -> Polling:
        """Chunks not yet handed out by a poll; where there are none, a watch for the next.

        Raises:
            NotFound: no such job in this endpoint.
        """
        reply = await self._call(endpoint, "poll", job, self.wakeups.process, limit=limit)
        described, restarted, chunks = reply or ([], 0, [])
        return Polling(_job(job, described), bool(restarted), chunks)

    async def cancel(self, endpoint: str, job: str, limit: Limit = "") -> Job:
        """Cancels the job unless it is final, and returns it.

        Raises:
            NotFound: no such job in this endpoint.
        """
        return _job(job, await self._call(endpoint, "cancel", job, limit=limit))

    def cancel_soon(self, endpoint: str, job: str) -> None:
        """Cancels the job in the background, once the store can be reached: nobody waits for it any more."""
        self.background.begin(self._cancel_at_last(endpoint, job))

    async def _cancel_at_last(self, endpoint: str, job: str) -> None:
        deadline = time.monotonic() + SECONDS_TO_CANCEL
        while time.monotonic() < deadline:
            try:
                await self.cancel(endpoint, job)
            except Unavailable:
                await asyncio.sleep(0.5)
            except (NotFound, ResponseError):
                return
            else:
                return

    async def retry(self, endpoint: str, job: str) -> None:
        """Puts a FAILED or TIMED_OUT job back into the queue.

        Raises:
            NotFound: no such job in this endpoint.
            Conflict: the job is in another state.
        """
        reply = await self._call(endpoint, "retry", job)
        if reply == b"GONE":
            raise NotFound(f"no job {job}")
        if reply != b"OK":
            raise Conflict(f"only a FAILED or TIMED_OUT job can be retried; this one is {reply[1].decode()}")

    async def touch(self, endpoint: str, job: str, ttl: int) -> None:
        """Sets the job's time to live to `ttl` ms from now."""
        await self._call(endpoint, "touch", job, ttl)

    async def purge(self, endpoint: str, limit: Limit = "") -> int:
        """Cancels all waiting jobs, in steps, so that others are served in between. Returns how many.

        Raises:
            NotFound: no such endpoint.
        """
        removed, step = 0, 500
        while True:
            count, limit = int(await self._call(endpoint, "purge", step, limit=limit)), ""
            if count < 0:
                raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
            removed += count
            if count < step:
                return removed

    async def health(self, endpoint: str, limit: Limit = "") -> Health:
        """The endpoint's counts.

        Raises:
            NotFound: no such endpoint.
        """
        reply = await self._call(endpoint, "health", limit=limit)
        if not reply:
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        completed, failed, in_progress, in_queue, retried = reply[:5]
        return Health(completed, failed, in_progress, in_queue, retried, Workers(*reply[5:]))

    async def requests(self, endpoint: str, count: int, cursor: str | None, state: State | None) -> Listed:
        """Up to `count` jobs, without input and output, the one that will be forgotten last first. With a state, looks
        at no more than ten times as many jobs per call: a page can be short, or empty, and still have a cursor."""
        bound, _, seen = (cursor or "+inf.0").rpartition(".")
        most = count if state is None else count * 10
        reply = await self._call(endpoint, "list", bound, seen, most)
        jobs: list[Job] = []
        for row in reply:
            score = row[1].decode()
            seen = str(int(seen) + 1) if score == bound else "1"
            bound = score
            if row[2] is None or (state is not None and row[2].decode() != state):
                continue
            jobs.append(_job(row[0].decode(), [*row[2:]]))
            if len(jobs) == count:
                break
        return Listed(jobs, f"{bound}.{seen}" if len(reply) == most or len(jobs) == count else None)

    async def workers(self, endpoint: str, skip: int, count: int, limit: Limit = "") -> list[Worker]:
        """Up to `count` workers that are alive, after the first `skip`.

        Raises:
            NotFound: no such endpoint.
        """
        reply = await self._call(endpoint, "workers", skip, count, limit=limit)
        if reply is None:
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        return [_worker(row) for row in reply]

    async def introduce(
        self, endpoint: str, worker: str, gone: int, description: bytes, key: str, expires: int | None
    ) -> None:
        """Takes a worker in as initializing; it counts as gone after `gone` ms without a word. `description`: JSON;
        `key`: the id of the key that it came with; `expires`: when that ends, in ms since the epoch."""
        await self._call(endpoint, "renew", worker, gone, 0, "initializing", description)
        await self.note_key(endpoint, worker, key, expires)

    async def note_key(self, endpoint: str, worker: str, key: str, expires: int | None) -> None:
        """Remembers with which key a worker came, and when that ends, in ms since the epoch."""
        await self._call(endpoint, "came_with", worker, key, expires or 0)

    async def leave(self, endpoint: str, worker: str) -> int:
        """Forgets a worker and puts back what it holds. Returns the number of its jobs."""
        return int(await self._call(endpoint, "leave", worker))

    async def _call(self, endpoint: str, function: str, *arguments: str | bytes | int, limit: Limit = "") -> Any:
        try:
            if limit:
                return await self.batcher.call(keys.base(endpoint), "limited", limit, function, *arguments)
            return await self.batcher.call(keys.base(endpoint), function, *arguments)
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                raise NotFound(f"no endpoint {keys.id_of(endpoint)}") from None
            raise


def _worker(row: list[Any]) -> Worker:
    id, state, jobs, seen, concurrency, link, trouble, description, key = row
    return Worker(
        id.decode(),
        state.decode(),
        jobs,
        seen,
        int(concurrency) if concurrency else None,
        link.decode() if link else None,
        trouble.decode(errors="replace") if trouble else None,
        description,
        key.decode() if key else None,
    )


def _job(id: str, reply: list[Any]) -> Job:
    if not reply:
        raise NotFound(f"no job {id}")
    state, created, started, finished, worker, attempt = reply[:6]
    chunks, output, error, progress = reply[6:10] if len(reply) > 6 else (None, None, None, None)
    queued = None
    if len(reply) > 10:
        position = reply[10]
        queued = Queued(None if position < 0 else position + 1, Workers(*reply[11:]))
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


__all__ = ["FINAL", "Engine", "Health", "Job", "Listed", "Polling", "Queued", "Reading", "State", "Submission",
           "Worker", "Workers"]  # fmt: skip
