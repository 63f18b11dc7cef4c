"""Runqy's tasks: adding them, one by one or many at once, and looking one up."""

import time

import msgspec
import orjson

from ..access.access import Access
from ..access.keys import Scope
from ..described import TOO_MANY, described
from ..engine.endpoints import Endpoints
from ..engine.engine import Changed, Engine
from ..engine.jobs import State, Task
from ..engine.keys import id_of
from ..errors import BadRequest, Conflict, Error, NotFound, RequestTimeout
from ..http import Answer, Call, Managed, Reply
from ..job_policy import JobPolicies
from ..queues import Queue, Queues
from ..settings import Settings
from ..waits import until_final, watching
from . import runqy_types as types
from .runpod import idempotency_of
from .runpod_types import IDEMPOTENCY_KEY
from .runqy_bodies import Request
from .runqy_errors import check_endpoint, use
from .runqy_intake import Intake
from .runqy_shapes import added, looked_up, max_retry, state_of, task_id

MOST_CHECKS = 5
"""So often tasks are checked again, because their queue's settings were changed meanwhile."""

MOST_AT_ONCE = 250
"""Of the tasks of one request so many are checked and stored at a time; others are served in between, here and by the
store, which takes about 20 us for each."""


class RunqyTasks:
    """The operations under /queue, and the same by the names of Runqy's documents."""

    def __init__(
        self, engine: Engine, endpoints: Endpoints, queues: Queues, access: Access, settings: Settings
    ) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._queues = queues
        self._access = access
        self._settings = settings
        self._policies = JobPolicies(settings)

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        return {
            ("/queue/add", "POST"): Managed(self.add, Scope.SUBMIT),
            ("/api/cli/tasks", "POST"): Managed(self.add, Scope.SUBMIT),
            ("/queue/add-batch", "POST"): Managed(self.add_batch, Scope.SUBMIT),
            ("/queue/{task}", "GET"): Managed(self.get, None),
        }

    @described(
        types.AddedTask, body=types.TaskRequest, headers=IDEMPOTENCY_KEY,
        errors={404: "there is no such queue", 409: "there is one like it", 429: TOO_MANY},
    )  # fmt: skip
    async def add(self, call: Call) -> Answer:
        """Puts a task into a queue."""
        body = await call.body(self._settings.runqy_body_limit, self._settings.body_seconds)
        request = Request(body)
        key, fingerprint = idempotency_of(call, body)
        queue = await self._queues.find(call.tenant, request.queue)
        await use(call, self._access, queue.endpoint, "queue-add")
        item = request.task()
        for _ in range(MOST_CHECKS):
            intake = Intake(call, queue, self._policies)
            try:
                job = msgspec.structs.replace(intake.submission(item), idempotency_key=key, fingerprint=fingerprint)
                id, found = await self._engine.submit(queue.endpoint.name, job, limit=call.limit)
            except (BadRequest, Changed, NotFound) as error:
                before, queue = queue, await self._find_again(call, queue, request.queue)
                if isinstance(error, BadRequest) and queue == before:
                    raise
                continue
            state = "scheduled" if job.delay and found is State.IN_QUEUE else state_of(found)
            ready = round(time.time() * 1000) + job.delay
            return Reply(added(id, queue.name, job.input, bytes(item.data), state, intake.max_retry, ready))
        raise _unsettled()

    @described(
        types.AddedTasks,
        body=types.BatchRequest,
        errors={404: "there is no such queue", 409: "try again", 429: TOO_MANY},
    )
    async def add_batch(self, call: Call) -> Answer:
        """Puts many tasks into a queue; those that cannot be are named with their index, and the others are added."""
        request = Request(await call.body(self._settings.runqy_body_limit, self._settings.body_seconds))
        seconds, jobs = request.tasks()
        queue = await self._queues.find(call.tenant, request.queue)
        await use(call, self._access, queue.endpoint, "queue-add-batch")
        limit = call.limit
        found: list[str | Error] = []
        for start in range(0, len(jobs), MOST_AT_ONCE):
            part = jobs[start : start + MOST_AT_ONCE]
            try:
                found += await self._add(call, request.queue, seconds, part, limit)
            except Error as error:
                if not found:
                    raise
                found += [error] * len(part)  # the parts before are in the queue
            limit = ""
        return _outcome(found)

    async def _add(self, call: Call, name: str, seconds: int, jobs: list[msgspec.Raw], limit: str) -> list[str | Error]:
        """Adds tasks in one call to the store. Returns their ids, or what is wrong with them."""
        queue = await self._queues.find(call.tenant, name)
        for _ in range(MOST_CHECKS):
            intake = Intake(call, queue, self._policies)
            groups, faults = intake.groups(jobs, seconds)
            if faults:
                before, queue = queue, await self._find_again(call, queue, name)
                if queue != before:
                    continue
            try:
                results = iter(await self._engine.submit_many(queue.endpoint.name, groups, limit) if groups else ())
            except (Changed, NotFound):
                queue = await self._find_again(call, queue, name)
                continue
            return [faults.get(place) or next(results) for place in range(len(jobs))]
        raise _unsettled()

    @described(
        types.TaskLookup, query=types.TaskWait, scope=Scope.READ,
        errors={408: "the task has not ended in time", 429: TOO_MANY},
    )  # fmt: skip
    async def get(self, call: Call) -> Answer:
        """A task; with `?wait=true` when it has ended, for which `?timeout` seconds are waited at most."""
        is_public = self._settings.runqy_public_tasks
        if not (is_public and not call.header(b"authorization") and not call.header(b"x-api-key")):
            await self._access.admit(call, Scope.READ)
        id, wait = task_id(call), _seconds_to_wait(call)
        try:
            endpoint = await self._endpoints.of_job(call.tenant, id)
            check_endpoint(call, id_of(endpoint))
            await self._access.count(call, endpoint, "queue-get")
            task = await (
                self._wait_for(call, endpoint, id, wait) if wait else self._engine.task(endpoint, id, limit=call.limit)
            )
            attempts = 0 if task.policy else (await self._endpoints.get(endpoint)).config.attempts
        except NotFound:
            raise NotFound("task not found") from None
        return Reply(looked_up(task, endpoint, max_retry(task, attempts)))

    async def _wait_for(self, call: Call, endpoint: str, id: str, seconds: int) -> Task:
        await self._engine.listen(endpoint)
        with watching(self._engine, call, endpoint, id) as watch:
            task = await self._engine.task(endpoint, id, watch=True, limit=call.limit)
            if task.job.final:
                return task
            job = await until_final(self._engine, endpoint, id, watch, seconds, f"/queue/{id}")
        if not job.final:
            raise RequestTimeout("timeout waiting for task result")
        task = await self._engine.task(endpoint, id)
        # Of an output that is not stored, what came of the wait is all that there is.
        ended = msgspec.structs.replace(task.job, output=job.output or task.job.output)
        return msgspec.structs.replace(task, job=ended)

    async def _find_again(self, call: Call, queue: Queue, name: str) -> Queue:
        """The queue as it is now. What is remembered of it is good enough to take a task, since the store knows better,
        and not to refuse one."""
        self._queues.forget(queue.endpoint.name)
        return await self._queues.find(call.tenant, name)


def _outcome(found: list[str | Error]) -> Reply:
    ids = [each for each in found if isinstance(each, str)]
    failures = [{"index": index, "error": each.message} for index, each in enumerate(found) if isinstance(each, Error)]
    errors = [f"job {failure['index']}: {failure['error']}" for failure in failures]
    return Reply(
        orjson.dumps(
            {"enqueued": len(ids), "failed": len(errors), "task_ids": ids, "errors": errors, "failures": failures}
        )
    )


def _seconds_to_wait(call: Call) -> int:
    """0: not at all."""
    query = call.queried(types.TaskWait)
    return query.timeout if query.wait.lower() in ("true", "1") else 0


def _unsettled() -> Conflict:
    return Conflict("the queue's settings are being changed again and again; try again")
