"""Runqy's listing of workers, and their logs. Each path is there as Runqy's documents have it, under /api/cli, and as
its code does.

A worker's id is ENDPOINT:ID, where Runqy's is HOSTNAME:PID.
"""

from typing import Literal

import msgspec

from ..access.keys import Scope
from ..described import Media, described
from ..engine.endpoints import Endpoint, Endpoints
from ..engine.engine import Engine
from ..engine.keys import name_of
from ..engine.queue_config import queue_of
from ..engine.roster import Worker
from ..engine.telemetry import LogLine
from ..errors import NotFound
from ..http import Answer, Call, Managed, Reply
from . import runqy_types as types
from .worker_logs import WorkerLogs, last_event
from .worker_types import LAST_EVENT_ID, LogReading
from .workers import description_of, worker_of

MOST_ENDPOINTS = 100
"""So many are looked at for one page."""

STALE_MS = 30_000

_STATUS: dict[str, Literal["bootstrapping", "running", "stopped"]] = {
    "initializing": "bootstrapping",
    "stopped": "stopped",
    "lost": "stopped",
}
_HEALTHY = ("initializing", "idle", "running")

_STREAM = Media({"text/event-stream": str})


class RunqyWorkers:
    """The operations under /workers and /api/cli/workers."""

    def __init__(self, engine: Engine, endpoints: Endpoints, logs: WorkerLogs) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._logs = logs

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        found: dict[tuple[str, str], Managed] = {}
        for all_of_them in ("/api/cli/workers", "/workers"):
            one = f"{all_of_them}/{{endpoint}}:{{worker}}"
            found |= {
                (all_of_them, "GET"): Managed(self.index, Scope.MANAGE),
                (one, "GET"): Managed(self.show, Scope.MANAGE),
                (f"{one}/logs", "GET"): Managed(self.logs, Scope.MANAGE),
                (f"{one}/logs/stream", "GET"): Managed(self.stream, Scope.MANAGE),
            }
        return found

    @described(types.RunqyWorkers, query=types.RunqyWorkerListing)
    async def index(self, call: Call) -> Answer:
        """The workers of all endpoints that the key is for, page by page: those that are alive, and those that have
        gone within ten minutes."""
        query, shown, following = call.queried(types.RunqyWorkerListing), list[types.RunqyWorker](), None
        first, _, left_out = query.cursor.partition(":")
        ids = [id for id in await self._endpoints.ids(call.tenant) if id >= first]
        only = call.key.terms.endpoints
        ids = [id for id in ids if not only or id in only]
        for number, id in enumerate(ids):
            left = query.limit - len(shown)
            skip = int(left_out) if id == first else 0
            if not left or number == MOST_ENDPOINTS:
                following = f"{id}:{skip}"
                break
            found = await self._workers_of(name_of(call.tenant, id), skip, left)
            shown += found
            if len(found) == left:
                following = f"{id}:{skip + left}"
                break
        return Reply(msgspec.json.encode(types.RunqyWorkers(shown, len(shown), following)))

    @described(types.RunqyWorker)
    async def show(self, call: Call) -> Answer:
        """One worker, also one that has gone not long ago."""
        try:
            worker = await self._engine.worker(call.endpoint, worker_of(call))
            return Reply(msgspec.json.encode(_shown(await self._endpoints.get(call.endpoint), worker)))
        except NotFound:
            raise NotFound("Worker not found") from None

    @described(types.LogText, query=LogReading)
    async def logs(self, call: Call) -> Answer:
        """The newest lines that a worker and its handler printed."""
        try:
            lines = await self._logs.newest(call)
        except NotFound:
            raise NotFound("Worker not found") from None
        return Reply(msgspec.json.encode(types.LogText([line.text for line in lines], len(lines))))

    @described(_STREAM, query=LogReading, headers=LAST_EVENT_ID)
    async def stream(self, call: Call) -> Answer:
        """The newest lines, and all that come, as an event stream."""
        try:
            return await self._logs.stream(call, _text, last_event(call))
        except NotFound:
            raise NotFound("Worker not found") from None

    async def _workers_of(self, endpoint: str, skip: int, most: int) -> list[types.RunqyWorker]:
        try:
            found = await self._engine.workers(endpoint, skip, most, gone=True)
            queue = await self._endpoints.get(endpoint) if found else None
        except NotFound:
            return []  # just being made or deleted
        return [_shown(queue, worker) for worker in found] if queue is not None else []


def _shown(endpoint: Endpoint, worker: Worker) -> types.RunqyWorker:
    said = description_of(worker)
    enabled = sorted((each for each in endpoint.config.queue.sub_queues if each.enabled), key=lambda each: each.name)
    served = [each for each in enabled if not worker.queues or queue_of(each.name) in worker.queues]
    return types.RunqyWorker(
        worker_id=f"{endpoint.id}:{worker.id}",
        started_at=(worker.came or 0) // 1000,
        last_beat=(worker.seen or 0) // 1000,
        concurrency=worker.concurrency or 1,
        queues="map[" + " ".join(f"{endpoint.id}.{each.name}:{each.priority}" for each in served) + "]",
        status=_STATUS.get(worker.state, "running"),
        healthy=worker.state in _HEALTHY,
        is_stale=worker.silent is None or worker.silent > STALE_MS,
        protected=False,
        metrics=worker.metrics,
        endpoint=endpoint.id,
        state=worker.state,
        jobs=worker.named,
        version=said.get("sdk"),
        hostname=said.get("hostname"),
        pid=said.get("pid"),
    )


def _text(line: LogLine) -> bytes:
    return line.text.encode()
