"""Management of queues as Runqy has it: under the paths of its documents, `/api/cli/configs`, and those of its code."""

import time
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import UNSET, Meta

from ..access.access import Access
from ..access.keys import Scope
from ..described import described
from ..engine.endpoints import ID, Config, Endpoint, Endpoints
from ..engine.keys import name_of
from ..engine.queue_config import DEFAULT, QueueConfig, SubQueue
from ..errors import BadRequest, Conflict, Forbidden, NotFound
from ..http import Answer, Call, Managed, Reply
from ..queue_definition import QueueDefinition
from ..queue_loader import QueueLoader
from ..queues import NAME, Named, named, split, sub_queues_of
from ..settings import Settings
from . import runqy_types as types
from .manage import check_vaults, json_object, shown_queue
from .runqy_errors import use

_NAME = f"^{ID.pattern}(?:[.][A-Za-z0-9][A-Za-z0-9_-]{{0,62}})?$"


class QueueListing(msgspec.Struct):
    """Of the list of queues."""

    deleted: Annotated[bool, Meta(description="also those that are deleted")] = False


class Creating(msgspec.Struct):
    """Of the making of a queue."""

    force: Annotated[bool, Meta(description="changes one that is there")] = False


class NewQueue(QueueDefinition, kw_only=True, forbid_unknown_fields=True):
    """`name`: `PARENT.SUB_QUEUE`, or `PARENT` for its sub-queue `default`, or for those that it lists."""

    name: Annotated[str, Meta(min_length=1, max_length=128, extra_json_schema={"pattern": _NAME})]

    def __post_init__(self) -> None:
        """Raises ValueError: what msgspec makes its own error of."""
        super().__post_init__()
        id, sub_queue = split(self.name)
        if not (NAME.fullmatch(self.name) and ID.fullmatch(id)) or self.name.endswith("."):
            raise ValueError("name: PARENT or PARENT.SUB_QUEUE, of letters, digits, '-' and '_'")
        if sub_queue and self.sub_queues:
            raise ValueError("sub_queues: a queue that has some has no dot in its name")


class RunqyConfigs:
    """The operations on the settings of queues."""

    def __init__(self, endpoints: Endpoints, files: QueueLoader, access: Access, settings: Settings) -> None:
        self._endpoints = endpoints
        self._files = files
        self._access = access
        self._settings = settings

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        listing = Managed(self.list, Scope.MANAGE)
        creation = Managed(self.create, Scope.MANAGE, "queue.create")
        showing = Managed(self.show, Scope.MANAGE)
        deletion = Managed(self.delete, Scope.MANAGE, "queue.delete")
        restoration = Managed(self.restore, Scope.MANAGE, "queue.restore")
        reload = Managed(self.reload, Scope.MANAGE, "queue.reload")
        return {
            ("/api/cli/configs", "GET"): listing,
            ("/api/cli/configs", "POST"): creation,
            ("/api/cli/configs/reload", "POST"): reload,
            ("/api/cli/configs/{queue}", "GET"): showing,
            ("/api/cli/configs/{queue}", "DELETE"): deletion,
            ("/api/cli/configs/{queue}/restore", "POST"): restoration,
            ("/workers/queues", "GET"): listing,
            ("/workers/queues", "POST"): creation,
            ("/workers/queues/{queue}", "DELETE"): deletion,
            ("/workers/queues/{queue}/restore", "POST"): restoration,
            ("/workers/config/{queue}", "GET"): showing,
            ("/workers/reload", "POST"): reload,
        }

    @described(types.QueueList, query=QueueListing)
    async def list(self, call: Call) -> Answer:
        """The queues that take jobs, of all endpoints that the key is for; with `?deleted=true` the others too, each
        with whether it is `enabled`."""
        only, deleted = call.key.terms.endpoints, call.queried(QueueListing).deleted
        queues = [
            types.QueueSummary(f"{endpoint.id}.{each.name}", each.priority, enabled=each.enabled if deleted else UNSET)
            for endpoint in await self._endpoints.list(call.tenant)
            if not only or endpoint.id in only
            for each in sub_queues_of(endpoint.config.queue)
            if each.enabled or deleted
        ]
        return Reply(msgspec.json.encode(types.QueueList(queues, len(queues))))

    @described(types.QueueObject)
    async def show(self, call: Call) -> Answer:
        """One queue. Of a name without a sub-queue it is `default`, or the one that is served first."""
        found = await self._named(call, enabled=True)
        if found is None:
            raise NotFound("queue not found")
        chosen = next((each for each in found.enabled if each.name == DEFAULT), found.enabled[0])
        return Reply(orjson.dumps(_shown(found.endpoint, chosen)))

    @described(types.MadeQueue, status=201, body=NewQueue, query=Creating, errors={409: "there is one"})
    async def create(self, call: Call) -> Answer:
        """Makes a queue, or enables one that was deleted; with `?force=true`, changes one that is there."""
        try:
            wanted = msgspec.convert(await json_object(call, self._settings), NewQueue)
        except msgspec.ValidationError as error:
            raise BadRequest(str(error)) from None
        id, sub_queue = split(wanted.name)
        call.facts |= {"queue": wanted.name, "endpoint": id}
        if call.key.terms.endpoints and id not in call.key.terms.endpoints:
            raise Forbidden("this key is not for this endpoint")
        force, names = call.queried(Creating).force, wanted.names(sub_queue or DEFAULT)
        is_there = False

        def make(before: Config | None) -> Config:
            nonlocal is_there
            config = before or Config(name=id)
            is_there = before is not None and any(
                each.enabled and each.name in names for each in before.queue.sub_queues
            )
            if is_there and not force:
                raise Conflict(f"queue '{wanted.name}' already exists. Use --force to update existing queue")
            queue = wanted.over(before.queue if before else None, sub_queue or DEFAULT)
            check_vaults(call.key, before.queue if before else None, queue)
            return msgspec.structs.replace(config, queue=queue)

        endpoint = await self._endpoints.put(name_of(call.tenant, id), make)
        chosen = next(each for each in sub_queues_of(endpoint.config.queue) if each.name in names)
        message = "Queue updated successfully" if is_there else "Queue created successfully"
        return Reply(orjson.dumps({"queue": _shown(endpoint, chosen), "message": message}), 201)

    @described(types.ChangedQueues)
    async def delete(self, call: Call) -> Answer:
        """Has a queue take no jobs any more, and serve none; what is in it stays there. Of a name without a sub-queue
        all are meant."""
        names = await self._switch(call, enabled=False)
        return _done(call, "deleted", names)

    @described(types.ChangedQueues)
    async def restore(self, call: Call) -> Answer:
        """The opposite."""
        names = await self._switch(call, enabled=True)
        return _done(call, "restored", names)

    @described(types.Reloaded)
    async def reload(self, call: Call) -> Answer:
        """Loads the queue files of the gateway that is asked."""
        if call.tenant != self._files.tenant or call.key.terms.endpoints:
            raise Forbidden("the queue files are of another tenant, or this key is for some endpoints only")
        loaded = await self._files.reload()
        return Reply(msgspec.json.encode(types.Reloaded(*loaded, timestamp=int(time.time()))))

    async def _named(self, call: Call, enabled: bool) -> Named | None:
        """What the name in the path stands for. `enabled`: whether only what takes jobs is meant."""
        found = await named(self._endpoints, call.tenant, call.parameters["queue"])
        if found is not None:
            await use(call, self._access, found.endpoint)
        return found if found is not None and (found.enabled or not enabled) else None

    async def _switch(self, call: Call, enabled: bool) -> tuple[str, ...]:
        """Enables the queues that the name in the path stands for, or disables them; returns which."""
        name = call.parameters["queue"]
        call.facts["queue"] = name[:200]
        # What is deleted already is not there to be deleted; what was not deleted need not be restored.
        found = await self._named(call, enabled=not enabled)
        if found is None:
            raise _not_found(name)
        call.facts["endpoint"] = found.endpoint.id
        changed: list[str] = []

        def make(before: Config | None) -> Config:
            if before is None:
                raise _not_found(name)
            switched = [each.name for each in sub_queues_of(before.queue, found.sub_queue) if each.enabled != enabled]
            changed[:] = [f"{found.endpoint.id}.{each}" for each in switched]
            return msgspec.structs.replace(before, queue=before.queue.switched(switched, enabled))

        await self._endpoints.put(found.endpoint.name, make)
        return tuple(changed)


def _shown(endpoint: Endpoint, chosen: SubQueue) -> dict[str, Any]:
    """A queue: in Runqy's fields, and in ours what else is set for the endpoint's queues."""
    queue: QueueConfig = endpoint.config.queue
    return {
        "name": f"{endpoint.id}.{chosen.name}",
        "priority": chosen.priority,
        **{name: value for name, value in shown_queue(queue).items() if value is not None},
        "created_at": endpoint.created // 1000,
        "updated_at": endpoint.updated // 1000,
    }


def _done(call: Call, what: str, names: tuple[str, ...]) -> Reply:
    message = f"Queue '{call.parameters['queue']}' {what} successfully"
    return Reply(msgspec.json.encode(types.ChangedQueues(message, list(names))))


def _not_found(name: str) -> NotFound:
    return NotFound(f"queue '{name[:200]}' not found")
