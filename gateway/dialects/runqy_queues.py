"""Management of Runqy's queues and their tasks. Its documents have all of it under /api/cli, its server under /api;
both are served. Where Runqy answers 500 for what its client did wrong, this answers 4xx."""

from collections.abc import Sequence
from typing import Any

import orjson

from ..access.access import Access
from ..access.keys import Scope
from ..described import TOO_MANY, described
from ..engine.endpoints import Endpoint, Endpoints
from ..engine.engine import Engine
from ..engine.jobs import QueueCounts, State, Task
from ..engine.keys import id_of
from ..engine.queue_config import sub_queue_of
from ..errors import BadRequest, Conflict, NotFound
from ..http import Answer, Call, Managed, Reply
from ..queues import Group, Queues
from . import runqy_types as types
from .runqy_errors import check_endpoint, is_for
from .runqy_shapes import max_retry, name_of_queue, state_of, task_id, task_object

TASK_STATES = ("pending", "active", "scheduled", "retry", "archived", "completed")
LISTED = 10
MOST_LISTED = 1000
MOST_SKIPPED = 10_000
"""The cost of a page grows with what is before it."""


class RunqyQueues:
    """The operations on queues, and on tasks by their queue."""

    def __init__(self, engine: Engine, endpoints: Endpoints, queues: Queues, access: Access) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._queues = queues
        self._access = access

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        manage = Scope.MANAGE
        served: dict[tuple[str, str], Managed] = {}
        for base in ("/api/cli/queues", "/api/queues"):
            one, tasks, task = f"{base}/{{queue}}", f"{base}/{{queue}}/tasks", f"{base}/{{queue}}/tasks/{{task}}"
            served |= {
                (base, "GET"): Managed(self.list_all, manage),
                (one, "GET"): Managed(self.show, manage),
                (one, "DELETE"): Managed(self.clear, manage, "queue.delete"),
                (f"{one}/pause", "POST"): Managed(self.pause, manage, "queue.pause"),
                (f"{one}/unpause", "POST"): Managed(self.unpause, manage, "queue.unpause"),
                (tasks, "GET"): Managed(self.tasks, manage),
                (task, "GET"): Managed(self.show_task, manage),
                (task, "DELETE"): Managed(self.delete_task, manage, "task.delete"),
                (f"{task}/run", "POST"): Managed(self.run_task, manage, "task.run"),
            }
        return served | {
            ("/api/cli/tasks/{task}", "DELETE"): Managed(self.cancel, Scope.CANCEL),
            ("/api/tasks/{task}/cancel", "POST"): Managed(self.cancel, Scope.CANCEL),
        }

    @described(types.AllQueues)
    async def list_all(self, call: Call) -> Answer:
        """All queues of the tenant that the key is for, and what is in them."""
        listed = []
        for endpoint in await self._endpoints.list(call.tenant):
            if not is_for(call, endpoint.id):
                continue
            for counts in await self._engine.queues(endpoint.name):
                if _is_shown(endpoint, counts):
                    listed.append(_shown(name_of_queue(endpoint.name, counts.queue), [counts]))
        return Reply(orjson.dumps({"queues": listed}))

    @described(types.QueueContents)
    async def show(self, call: Call) -> Answer:
        """One queue; under the name of an endpoint, all of its queues together."""
        group, counts = await self._counts(call)
        return Reply(orjson.dumps(_shown(group.name, counts)))

    @described(types.QueueDone)
    async def pause(self, call: Call) -> Answer:
        """Begins no more tasks of a queue. One that is paused stays so."""
        return await self._set_paused(call, True, "queue paused")

    @described(types.QueueDone)
    async def unpause(self, call: Call) -> Answer:
        """Begins tasks of a queue again."""
        return await self._set_paused(call, False, "queue unpaused")

    @described(types.QueueDone, query=types.Clearing, errors={409: "it has active tasks"})
    async def clear(self, call: Call) -> Answer:
        """Deletes all tasks of a queue, which itself is there as long as it is configured; with `?force=true` also
        when there are some. None of them may run."""
        group, counts = await self._counts(call)
        if any(each.active for each in counts):
            raise Conflict("the queue has active tasks: cancel them, or let them end")
        if any(_size_of(each) for each in counts) and call.query.get("force", "").lower() not in ("true", "1"):
            raise BadRequest("the queue is not empty: force=true deletes its tasks")
        deleted = [await self._engine.clear(group.endpoint.name, each.queue) for each in counts]
        return Reply(orjson.dumps({"message": "queue deleted", "queue": group.name, "deleted": sum(deleted)}))

    @described(types.TaskPage, query=types.TaskListing)
    async def tasks(self, call: Call) -> Answer:
        """Tasks of a queue in one state; `next` is the `cursor` of the next page."""
        state, limit, cursor = _page(call)
        group, counts = await self._counts(call)
        endpoint, queues = group.endpoint, [each.queue for each in counts]
        found = await self._engine.tasks(endpoint.name, queues, state, cursor, limit)
        shown = [task_object(task, endpoint.name, max_retry(task, endpoint.config.attempts)) for task in found]
        more = len(found) == limit and cursor + limit <= MOST_SKIPPED
        return Reply(orjson.dumps({"tasks": shown, "next": str(cursor + limit) if more else None}))

    @described(types.TaskObject)
    async def show_task(self, call: Call) -> Answer:
        """One task of a queue."""
        endpoint, task = await self._task(call)
        return Reply(orjson.dumps(task_object(task, endpoint.name, max_retry(task, endpoint.config.attempts))))

    @described(types.TaskDone, errors={409: "it is active"})
    async def delete_task(self, call: Call) -> Answer:
        """Forgets a task, unless it runs."""
        endpoint, task = await self._task(call)
        await self._engine.delete(endpoint.name, task.job.id)
        return Reply(orjson.dumps({"message": "task deleted", "task_id": task.job.id}))

    @described(types.TaskDone, errors={409: "it is active, has ended well, or its unique key is taken"})
    async def run_task(self, call: Call) -> Answer:
        """Puts a task that waits for its time, or has not ended well, into its queue now."""
        endpoint, task = await self._task(call)
        await self._engine.run_now(endpoint.name, task.job.id)
        return Reply(orjson.dumps({"message": "task queued", "task_id": task.job.id}))

    @described(types.TaskDone, errors={409: "it has ended already", 429: TOO_MANY})
    async def cancel(self, call: Call) -> Answer:
        """Cancels a task; one that runs is stopped."""
        id = task_id(call)
        try:
            endpoint = await self._endpoints.of_job(call.tenant, id)
            check_endpoint(call, id_of(endpoint))
            await self._access.count(call, endpoint, "cancel")
            job = await self._engine.cancel(endpoint, id, call.limit)
        except NotFound:
            raise NotFound("task not found") from None
        if job.state is not State.CANCELLED:
            raise Conflict(f"the task is {state_of(job.state)} already")
        return Reply(orjson.dumps({"message": "task cancelled", "task_id": id}))

    async def _group(self, call: Call) -> Group:
        group = await self._queues.group(call.tenant, call.parameters["queue"])
        check_endpoint(call, group.endpoint.id)
        return group

    async def _counts(self, call: Call) -> tuple[Group, list[QueueCounts]]:
        group = await self._group(call)
        found = await self._engine.queues(group.endpoint.name)
        counts = [each for each in found if group.queue in (None, each.queue)]
        if not counts:
            raise NotFound(f"queue not found: {group.name}")
        return group, counts

    async def _task(self, call: Call) -> tuple[Endpoint, Task]:
        group = await self._group(call)
        try:
            task = await self._engine.task(group.endpoint.name, task_id(call))
        except NotFound:
            raise NotFound("task not found") from None
        if group.queue not in (None, task.queue):
            raise NotFound("task not found")
        return group.endpoint, task

    async def _set_paused(self, call: Call, paused: bool, message: str) -> Answer:
        group, counts = await self._counts(call)
        changed = await self._engine.pause(group.endpoint.name, [each.queue for each in counts], paused)
        return Reply(orjson.dumps({"message": message, "queue": group.name, "changed": bool(changed)}))


def _page(call: Call) -> tuple[str, int, int]:
    """The state, most tasks, and how many come before. A limit that is no number is as Runqy has it."""
    query = call.query
    state, limit, cursor = query.get("state", "pending"), query.get("limit", ""), query.get("cursor", "0")
    if state not in TASK_STATES:
        raise BadRequest(f"invalid state: {state[:40]}")
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 8 and int(cursor) <= MOST_SKIPPED):
        raise BadRequest("cursor must be what an earlier page gave as next")
    is_number = limit.isascii() and limit.isdigit() and len(limit) < 8 and int(limit) > 0
    return state, min(int(limit), MOST_LISTED) if is_number else LISTED, int(cursor)


def _is_shown(endpoint: Endpoint, counts: QueueCounts) -> bool:
    """Whether a queue is one that its endpoint names, or has tasks all the same."""
    found = endpoint.config.queue.find(sub_queue_of(counts.queue))
    return (found is not None and found.enabled) or _size_of(counts) > 0


def _size_of(counts: QueueCounts) -> int:
    return sum(getattr(counts, state) for state in TASK_STATES)


def _shown(name: str, counts: Sequence[QueueCounts]) -> dict[str, Any]:
    sums = {state: sum(getattr(each, state) for each in counts) for state in TASK_STATES}
    paused, memory = all(each.paused for each in counts), sum(each.memory for each in counts)
    return {"queue": name, **sums, "paused": paused, "memory_usage": memory}
