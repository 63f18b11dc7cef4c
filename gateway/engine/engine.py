"""Typed calls to the functions in functions/*.lua. One `Engine` serves a whole gateway process."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

from ..errors import Conflict, Error, NotFound, TooManyRequests, Unavailable
from ..store import Store
from . import keys
from .batching import MOST_BYTES_IN_CALL, Batcher, refusal
from .ids import numbered
from .jobs import (
    FINAL,
    Alike,
    Health,
    Job,
    Listed,
    Payload,
    Policy,
    Polling,
    QueueCounts,
    Queued,
    Reading,
    State,
    Submission,
    Task,
    Workers,
    read_counts,
    read_job,
    read_task,
)
from .queue_config import sub_queue_of
from .roster import Worker, read_worker
from .tasks import Background
from .wakeups import Wakeups

SECONDS_TO_CANCEL = 300.0
"""For so long a job that nobody waits for is cancelled again, while the store is away."""

Limit = str
"""How many requests there may be, as functions/limits.lua takes it; empty when there is no limit."""

MOST_IN_CALL = 1000
"""So many jobs are submitted in one call."""

BYTES_TO_READ = 262_144
"""A reader that stops reading holds on to so many bytes of a stream, and all calls wait while they come."""


class Changed(Exception):
    """The settings of the endpoint are not those by which a submission was checked."""


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
        reply = await self.batcher.submit(keys.base(endpoint), job.arguments(watcher), limit, job.size)
        return _submitted(endpoint, job, reply)

    async def submit_many(self, endpoint: str, groups: Sequence[Alike], limit: Limit = "") -> list[str | Error]:
        """Puts jobs into the queue, each by itself, in one call to the store for each group, or several when that is
        large. They are one request.

        Returns:
            For each job, in their order, its id, or what `submit` raises.

        Raises: when nothing is queued; else those jobs that are not have this as their error:
            NotFound: no such endpoint.
            Changed: other settings.
            TooManyRequests: over the limit.
            Unavailable: the store cannot be reached; some jobs may have been stored all the same.
        """
        first, *others = [part for group in groups for part in _in_parts(group)]
        found = await self._submit_alike(endpoint, first, limit)
        # All at once, since calls are executed in the order in which they are made.
        calls = [self._submit_alike(endpoint, part) for part in others]
        for part, result in zip(others, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if isinstance(result, Changed):
                result = Conflict("the settings of the endpoint have changed")
            if isinstance(result, Error):
                result = [result] * len(part.inputs)
            if isinstance(result, BaseException):
                raise result
            found += result
        return found

    async def _submit_alike(self, endpoint: str, group: Alike, limit: Limit = "") -> list[str | Error]:
        replies = await self.batcher.submit_alike(keys.base(endpoint), group.arguments(), limit)
        if replies == b"NO_ENDPOINT":
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        return [
            numbered(group.like.id, reply) if isinstance(reply, int) else _refused(endpoint, reply) for reply in replies
        ]

    async def status(self, endpoint: str, job: str, watch: bool = False, limit: Limit = "") -> Job:
        """The job as it is now; with `watch`, this process hears of what comes next.

        Raises:
            NotFound: no such job in this endpoint.
        """
        return read_job(
            job, await self._call(endpoint, "status", job, self.wakeups.process if watch else "", limit=limit)
        )

    async def event(self, endpoint: str, delivery: str, job: str) -> Job:
        """The job as it was at its end, for the delivery of a webhook.

        Raises:
            NotFound: it is kept no longer.
        """
        return read_job(job, await self._call(endpoint, "webhook_event", delivery))

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
        return Reading(read_job(job, described), restarted, first, chunks)

    async def poll(self, endpoint: str, job: str, limit: Limit = "") -> Polling:
        """Chunks not yet handed out by a poll; where there are none, a watch for the next.

        Raises:
            NotFound: no such job in this endpoint.
        """
        reply = await self._call(endpoint, "poll", job, self.wakeups.process, limit=limit)
        described, restarted, chunks = reply or ([], 0, [])
        return Polling(read_job(job, described), bool(restarted), chunks)

    async def cancel(self, endpoint: str, job: str, limit: Limit = "") -> Job:
        """Cancels the job unless it is final, and returns it.

        Raises:
            NotFound: no such job in this endpoint.
        """
        return read_job(job, await self._call(endpoint, "cancel", job, limit=limit))

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
            Conflict: the job is in another state, or another one with its unique key has not ended.
        """
        reply = await self._call(endpoint, "retry", job)
        _check_restart(job, reply)
        if reply != b"OK":
            raise Conflict(f"only a FAILED or TIMED_OUT job can be retried; this one is {reply[1].decode()}")

    async def task(self, endpoint: str, job: str, watch: bool = False, limit: Limit = "") -> Task:
        """As `status`, with all that Runqy's clients are told.

        Raises:
            NotFound: no such job in this endpoint.
        """
        found = await self._call(endpoint, "task", job, self.wakeups.process if watch else "", limit=limit)
        if not found:
            raise NotFound(f"no job {job}")
        return read_task(found)

    async def tasks(self, endpoint: str, queues: Sequence[str], state: str, skip: int, count: int) -> list[Task]:
        """Up to `count` jobs of these queues that are in one of Runqy's states, after the first `skip`, without outputs
        and large inputs: those that wait as they will be served, those that are over with the last first. Its cost
        grows with `skip`."""
        return [read_task(row) for row in await self._call(endpoint, "tasks", state, skip, count, *queues)]

    async def queues(self, endpoint: str) -> list[QueueCounts]:
        """The endpoint's queues, as they are served.

        Raises:
            NotFound: no such endpoint.
        """
        rows = await self._call(endpoint, "queues")
        if not rows:
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        return [read_counts(row) for row in rows]

    async def pause(self, endpoint: str, queues: Sequence[str], paused: bool) -> list[str]:
        """Has no job of these queues begin, or has them begin again. Returns the queues that were not so before.

        Raises:
            NotFound: no such endpoint.
        """
        changed = await self._call(endpoint, "pause", int(paused), *queues)
        if changed is None:
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        return [queue.decode() for queue in changed]

    async def delete(self, endpoint: str, job: str) -> None:
        """Removes a job that does not run, with all that is known of it.

        Raises:
            NotFound: no such job in this endpoint.
            Conflict: it runs.
        """
        reply = await self._call(endpoint, "delete", job)
        if reply == b"GONE":
            raise NotFound(f"no job {job}")
        if reply == b"ACTIVE":
            raise Conflict(f"job {job} is running: cancel it first")

    async def run_now(self, endpoint: str, job: str) -> None:
        """Queues a job that waits for its time, or has ended badly.

        Raises:
            NotFound: no such job in this endpoint.
            Conflict: it waits in its queue already, runs or is COMPLETED, or another one with its unique key has not
                ended.
        """
        reply = await self._call(endpoint, "run", job)
        _check_restart(job, reply)
        if reply != b"OK":
            raise Conflict(f"job {job} is {reply[1].decode()}; it cannot be run now")

    async def clear(self, endpoint: str, queue: str) -> int:
        """Removes all jobs of a queue but those that run, in steps. Returns how many."""
        removed, step = 0, 500
        while (count := int(await self._call(endpoint, "clear", queue, step))) == step:
            removed += count
        return removed + count

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
        """Up to `count` jobs, without input and output: those that have only been queued, then those to which something
        has happened, the one that will be forgotten last first. With a state, looks at no more than ten times as many
        jobs per call: a page can be short, or empty, and still have a cursor."""
        start = "0.0" if state in (None, State.IN_QUEUE) else "+inf.0"
        bound, _, seen = (cursor or start).rpartition(".")
        rows, *after = await self._call(endpoint, "list", bound, seen, count if state is None else count * 10)
        jobs: list[Job] = []
        for id, *place, found, created, started, finished, worker, attempt in rows:
            if found is None or (state is not None and found.decode() != state):
                continue
            jobs.append(read_job(id.decode(), [found, created, started, finished, worker, attempt]))
            if len(jobs) == count:
                after = place
                break
        return Listed(jobs, _cursor(*after))

    async def workers(
        self, endpoint: str, skip: int, count: int, gone: bool = False, limit: Limit = ""
    ) -> list[Worker]:
        """Up to `count` workers, after the first `skip`: those that are alive, and with `gone` also the last hundred
        that are gone, for ten minutes.

        Raises:
            NotFound: no such endpoint.
        """
        reply = await self._call(endpoint, "workers", skip, count, "1" if gone else "", limit=limit)
        if reply is None:
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        return [read_worker(row) for row in reply]

    async def worker(self, endpoint: str, worker: str, limit: Limit = "") -> Worker:
        """One worker, also one that is gone, as `workers` gives it.

        Raises:
            NotFound: no such endpoint, or no such worker.
        """
        reply = await self._call(endpoint, "worker", worker, limit=limit)
        if reply is None:
            raise NotFound("no such worker")
        return read_worker(reply)

    async def introduce(self, endpoint: str, worker: str, gone: int, description: bytes) -> None:
        """Takes a worker in as initializing; it counts as gone after `gone` ms without a word. `description`: JSON."""
        await self._call(endpoint, "renew", worker, gone, 0, "initializing", description)

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


def _cursor(bound: bytes | int, seen: int) -> str | None:
    text = bound if isinstance(bound, int) else bound.decode()
    return f"{text}.{seen}" if text else None


def _submitted(endpoint: str, job: Submission, reply: Any) -> tuple[str, State]:
    if isinstance(reply, int):
        return numbered(job.id, reply), State.IN_QUEUE
    if reply == b"NEW":
        return job.id, State.IN_QUEUE
    if reply == b"NO_ENDPOINT":
        raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
    if reply[0] == b"SAME":
        return reply[1].decode(), State(reply[2].decode())
    raise _refused(endpoint, reply)


def _check_restart(job: str, reply: Any) -> None:
    """Raises what keeps a job of any state from being queued again."""
    if reply == b"GONE":
        raise NotFound(f"no job {job}")
    if reply[0] == b"TAKEN":
        raise _taken(reply)


def _taken(reply: Any) -> Conflict:
    return Conflict(f"job {reply[1].decode()} with this unique key has not ended")


def _refused(endpoint: str, reply: Any) -> Error:
    """Why the store did not take a job.

    Raises:
        Changed: that is to be found out by another look at the settings.
    """
    match reply[0]:
        case b"LIMITED":
            return refusal(reply[1].decode(), reply[2], reply[3])
        case b"FULL":
            return TooManyRequests(
                f"the queue of endpoint {keys.id_of(endpoint)} is full: {reply[1]} jobs wait", 1, reply[1]
            )
        case b"CLOSED":
            name = f"{keys.id_of(endpoint)}.{sub_queue_of(reply[1].decode())}"
            return NotFound(f"queue {name} is disabled; it takes jobs again when it is restored")
        case b"CHANGED":
            raise Changed
        case b"TAKEN":
            return _taken(reply)
        case b"CONFLICT":
            return Conflict(f"this Idempotency-Key was used with another body, for job {reply[1].decode()}")
        case _:
            return Conflict(
                f"job {reply[1].decode()} of this Idempotency-Key has ended and its result is no longer kept"
            )


def _in_parts(group: Alike) -> Iterator[Alike]:
    """Parts that keep the store from its other work for a moment only."""
    part: list[Payload] = []
    size = 0
    for input in group.inputs:
        if part and (len(part) == MOST_IN_CALL or size + len(input) > MOST_BYTES_IN_CALL):
            yield Alike(group.like, part)
            part, size = [], 0
        part.append(input)
        size += len(input)
    yield Alike(group.like, part)


__all__ = ["FINAL", "Alike", "Changed", "Engine", "Health", "Job", "Listed", "Policy", "Polling", "QueueCounts",
           "Queued", "Reading", "State", "Submission", "Task", "Worker", "Workers"]  # fmt: skip
