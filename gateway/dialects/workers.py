"""How workers of our own SDK come and go, and which there are. A worker registers over HTTP with its endpoint's worker
key and gets what it needs to work at the store directly, where it then calls the engine's functions itself; one that
cannot reach the store goes on over HTTP (`worker_calls`), as RunPod's do, which do not register."""

import secrets

import msgspec

from ..access.keys import Scope
from ..access.worker_users import WorkerUsers
from ..access.workers import WorkerAccess
from ..described import TOO_MANY, described
from ..engine import keys
from ..engine.endpoints import Endpoint
from ..engine.engine import Engine
from ..engine.queue_config import DEFAULT, LOW, queue_of
from ..engine.roster import Worker as Known
from ..errors import BadRequest, NotFound
from ..http import Answer, ByMethod, Call, Reply, Served
from ..settings import Settings
from ..store import LIBRARY
from . import worker_types as types
from .worker_calls import WORKER_ID

MOST_BYTES = 64_000
PING_SECONDS = 10


_decode = msgspec.json.Decoder(types.Registration).decode
_decode_description = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Workers:
    """The operations under /v2/{endpoint}/workers."""

    def __init__(self, engine: Engine, users: WorkerUsers, access: WorkerAccess, settings: Settings) -> None:
        self._engine = engine
        self._users = users
        self._access = access
        self._settings = settings

    def operations(self) -> dict[str, Served]:
        """Path under /v2/{endpoint}, and what is served there. Workers' keys are checked by the operations."""
        return {
            "/workers": Served(
                ByMethod({"GET": self.list, "POST": self.register}), ("GET", "POST"), None, event="worker.register"
            ),
            "/workers/{worker}": Served(
                ByMethod({"GET": self.show, "DELETE": self.leave}), ("GET", "DELETE"), None, event="worker.leave"
            ),
            "/worker-env": Served(self.environment, ("GET",), None),
        }

    @described(types.WorkerPage, query=types.WorkerListing, errors={429: TOO_MANY}, scope=Scope.READ)
    async def list(self, call: Call) -> Answer:
        """The workers that are alive, for clients."""
        await self._access.clients.admit(call, Scope.READ, "status")
        query = call.queried(types.WorkerListing)
        limit = query.limit or 1
        found = await self._engine.workers(call.endpoint, query.cursor, limit, limit=call.limit)
        after = str(query.cursor + len(found)) if len(found) == limit else None
        return Reply(msgspec.json.encode(types.WorkerPage([_shown(worker) for worker in found], after)))

    @described(types.WorkerSettings, scope=Scope.WORKER)
    async def environment(self, call: Call) -> Answer:
        """What `runlane worker-env` has to know; it also says whether the key is right."""
        endpoint = await self._access.admit(call)
        seconds = max(1, min(PING_SECONDS, endpoint.lease_ms // 3000))
        return Reply(msgspec.json.encode(types.WorkerSettings(endpoint.id, seconds * 1000)))

    @described(types.Registered, body=types.Registration, body_is_optional=True, scope=Scope.WORKER)
    async def register(self, call: Call) -> Answer:
        """Takes a worker in, or gives one that lost its user at the store a new one."""
        endpoint = await self._access.admit(call)
        try:
            registration = _decode(await call.body(MOST_BYTES, self._settings.body_seconds) or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"not a registration: {error}") from None
        queues = _queues(endpoint, registration)
        worker = registration.id or secrets.token_hex(8)
        if not WORKER_ID.fullmatch(worker):
            raise BadRequest("a worker's id is 1 to 63 letters, digits, '.', '-' or '_'")
        if registration.restarted:
            await self._engine.leave(endpoint.name, worker)
        if registration.link == "http":
            await self._users.revoke(endpoint.name, worker)  # of a time when it reached the store
        await self._engine.introduce(
            endpoint.name, worker, endpoint.lease_ms, msgspec.json.encode(registration.description)
        )
        granted = await self._users.grant(endpoint.name, worker, call.key, registration.link == "redis")
        registered = types.Registered(
            worker, granted, LIBRARY, keys.base(endpoint.name), endpoint.lease_ms,
            self._settings.output_limit, self._settings.chunk_limit, queues,
        )  # fmt: skip
        return Reply(msgspec.json.encode(registered))

    @described(types.WorkerObject, errors={429: TOO_MANY}, scope=Scope.READ)
    async def show(self, call: Call) -> Answer:
        """One worker, also one that has gone not long ago: `stopped`, or `lost` when it gave no sign of life."""
        await self._access.clients.admit(call, Scope.READ, "status")
        found = await self._engine.worker(call.endpoint, worker_of(call), call.limit)
        return Reply(msgspec.json.encode(_shown(found)))

    @described(types.Dismissed, scope=Scope.WORKER)
    async def leave(self, call: Call) -> Answer:
        """Lets a worker go: its user is deleted, and what it still holds goes back into the queue."""
        endpoint = await self._access.admit(call)
        worker = worker_of(call)
        return Reply(msgspec.json.encode(types.Dismissed(await self._users.dismiss(endpoint.name, worker))))


def worker_of(call: Call) -> str:
    """The worker's id in the path.

    Raises:
        NotFound: it cannot be one.
    """
    worker = call.parameters["worker"]
    if not WORKER_ID.fullmatch(worker):
        raise NotFound("no such worker")
    return worker


def _queues(endpoint: Endpoint, registration: types.Registration) -> str:
    """The engine's names of the sub-queues that a worker names, separated by spaces. `default` and `low` are always
    there, for RunPod's jobs. One that registers again goes on, though a queue has gone meanwhile.

    Raises:
        BadRequest: there is none of a name.
    """
    for name in registration.queues if registration.restarted else ():
        if name not in (DEFAULT, LOW) and endpoint.config.queue.find(name) is None:
            raise BadRequest(f"endpoint {endpoint.id} has no sub-queue {name!r}")
    return " ".join(queue_of(name) for name in registration.queues)


def description_of(worker: Known) -> dict[str, msgspec.Raw]:
    """What a worker says of itself; nothing when that makes no sense."""
    try:
        return _decode_description(worker.description or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _shown(worker: Known) -> types.WorkerObject:
    said = description_of(worker)
    return types.WorkerObject(
        id=worker.id,
        state="unhealthy" if worker.state == "crashing" else worker.state,
        crashLoop=worker.state == "crashing",
        trouble=worker.trouble,
        jobsInHand=worker.jobs,
        currentJobs=worker.named,
        concurrency=worker.concurrency,
        startedAt=worker.came,
        lastSeen=worker.seen,
        metrics=worker.metrics,
        gpu=said.pop("gpu", None),
        sdk=said.pop("sdk", None),
        link=worker.link or "redis",
        description=said,
    )
