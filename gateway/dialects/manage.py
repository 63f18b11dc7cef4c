"""Management of endpoints, as the serverless part of RunPod's REST API v1: https://docs.runpod.io/api-reference"""

import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta

from ..access.keys import Key, Scope, Terms
from ..access.stored_keys import StoredKeys
from ..access.worker_users import WorkerUsers
from ..described import described
from ..engine.endpoints import Config, Endpoint, Endpoints, Id, check_id, parse_config
from ..engine.keys import id_of, name_of
from ..engine.queue_config import QueueConfig
from ..errors import BadRequest, Conflict, Forbidden
from ..http import Answer, Call, Managed, Reply
from ..outbound import Outbound
from ..settings import Settings

MOST_BYTES = 1_000_000


Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class NewEndpoint(Config, forbid_unknown_fields=True, rename="camel"):
    """An endpoint to be made; without an id, it gets one."""

    id: Id | None = None


class EndpointObject(Config, kw_only=True, rename="camel"):
    """An endpoint. `version` counts its changes; `workers` stays empty."""

    id: Id
    created_at: Moment
    version: int
    workers: list[Any]


class MadeEndpoint(EndpointObject, kw_only=True, rename="camel"):
    """The same, with a key for its workers."""

    worker_key: str


class Manage:
    """The operations under /v1/endpoints."""

    TAG = "Endpoints"

    def __init__(
        self, endpoints: Endpoints, stored: StoredKeys, users: WorkerUsers, outbound: Outbound, settings: Settings
    ) -> None:
        self._endpoints = endpoints
        self._stored = stored
        self._users = users
        self._outbound = outbound
        self._settings = settings

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        one = "/v1/endpoints/{endpoint}"
        return {
            ("/v1/endpoints", "POST"): Managed(self.create, Scope.MANAGE, "endpoint.create"),
            ("/v1/endpoints", "GET"): Managed(self.list, Scope.MANAGE),
            (one, "GET"): Managed(self.show, Scope.MANAGE),
            (one, "PATCH"): Managed(self.update, Scope.MANAGE, "endpoint.update"),
            (one, "DELETE"): Managed(self.delete, Scope.MANAGE, "endpoint.delete"),
            (f"{one}/update", "POST"): Managed(self.update, Scope.MANAGE, "endpoint.update"),
        }

    @described(MadeEndpoint, status=201, body=NewEndpoint, errors={409: "there is an endpoint of this id"})
    async def create(self, call: Call) -> Answer:
        """Makes an endpoint. The answer has its `workerKey`, this once."""
        fields = await self._fields(call)
        id = fields.pop("id", None)
        if id is None:
            id = secrets.token_hex(7)
        if not isinstance(id, str):
            raise BadRequest("id must be a string")
        check_id(id)
        if call.key.terms.endpoints and id not in call.key.terms.endpoints:
            raise Forbidden("this key is not for this endpoint")
        call.facts["endpoint"] = id[:100]
        config = parse_config(fields)
        check_vaults(call.key, None, config.queue)
        if not config.name:
            config = msgspec.structs.replace(config, name=id)
        endpoint = await self._endpoints.create(name_of(call.tenant, id), config)
        try:
            _, secret = await self._stored.create(call.tenant, worker_terms(id))
        except Conflict:  # the answer says that nothing was made
            await self._endpoints.delete(endpoint.name)
            raise
        return Reply(orjson.dumps({**_shown(endpoint), "workerKey": secret}), 201)

    @described(list[EndpointObject])
    async def list(self, call: Call) -> Answer:
        """All endpoints of the tenant that the key is for."""
        only = call.key.terms.endpoints
        found = await self._endpoints.list(call.tenant)
        return Reply(orjson.dumps([_shown(endpoint) for endpoint in found if not only or endpoint.id in only]))

    @described(EndpointObject)
    async def show(self, call: Call) -> Answer:
        """One endpoint."""
        return Reply(orjson.dumps(_shown(await self._endpoints.get(call.endpoint))))

    @described(EndpointObject, body=Config, errors={409: "someone else changed it at the same time"})
    async def update(self, call: Call) -> Answer:
        """Changes the fields that are in the body."""
        changes = await self._fields(call)
        if call.key.terms.endpoints and "queue" in changes:
            before = await self._endpoints.get(call.endpoint)
            check_vaults(call.key, before.config.queue, parse_config({"queue": changes["queue"]}).queue)
        return Reply(orjson.dumps(_shown(await self._endpoints.update(call.endpoint, changes))))

    @described()
    async def delete(self, call: Call) -> Answer:
        """Deletes the endpoint; its waiting and running jobs are cancelled, and its workers' keys are good no more."""
        await self._endpoints.delete(call.endpoint)
        await self._stored.revoke_workers_of(call.tenant, id_of(call.endpoint))
        await self._users.revoke_all(call.endpoint)
        return Reply(b"", 204)

    async def _fields(self, call: Call) -> dict[str, Any]:
        fields = await json_object(call, self._settings)
        if isinstance(fields.get("webhook"), str):
            fields["webhook"] = self._outbound.check_url(fields["webhook"])
        return fields


def worker_terms(endpoint: str) -> Terms:
    """What the key for the workers of an endpoint is good for."""
    return Terms(frozenset({Scope.WORKER}), f"workers of {endpoint}", (endpoint,))


def check_vaults(key: Key, before: QueueConfig | None, after: QueueConfig) -> None:
    """A key for some endpoints only gives them no vault that they have not: vaults are the tenant's, and whoever may
    decide what an endpoint's workers do could read it there.

    Raises:
        Forbidden: it would.
    """
    if key.terms.endpoints and not after.vaults <= (before.vaults if before else set()):
        raise Forbidden("this key may give no further vaults to an endpoint, as it is for some endpoints only")


def shown_queue(queue: QueueConfig) -> dict[str, Any]:
    """The settings of a queue as they may be shown: without the token to get its code with."""
    shown: dict[str, Any] = msgspec.to_builtins(queue)
    if queue.deployment is not None:
        shown["deployment"] = msgspec.to_builtins(queue.deployment.without_token)
    return shown


async def json_object(call: Call, settings: Settings, default: bytes = b"") -> dict[str, Any]:
    """The body of a request. `default`: what it is when there is none.

    Raises:
        BadRequest: it is no JSON object.
    """
    body = await call.body(MOST_BYTES, settings.body_seconds)
    try:
        fields = orjson.loads(body or default)
    except orjson.JSONDecodeError:
        raise BadRequest("the body is not valid JSON") from None
    if not isinstance(fields, dict):
        raise BadRequest("the body must be a JSON object")
    return fields


def moment(milliseconds: int) -> str:
    """A time in ms since the epoch, as answers have it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    config: Config = endpoint.config
    fields: dict[str, Any] = msgspec.to_builtins(config) | {"queue": shown_queue(config.queue)}
    created = moment(endpoint.created)
    return {"id": endpoint.id, **fields, "createdAt": created, "version": endpoint.version, "workers": []}
