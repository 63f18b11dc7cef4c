"""Runqy's workers say which queue they are for, and get what they need to deploy its code."""

from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ..access.access import Access
from ..access.keys import Scope
from ..described import described
from ..engine.endpoints import Endpoint, Endpoints
from ..engine.queue_config import DEFAULT, Deployment
from ..errors import BadRequest, Conflict, Error, NotFound
from ..http import Answer, Call, Managed, Reply
from ..queues import NAME, Named, named
from ..settings import Settings
from ..vaults import Vaults
from . import runqy_types as types
from .runqy_errors import use

MOST_BYTES = 64_000
REDIS_PORTS = {"redis": 6379, "rediss": 6379, "redis+cluster": 6379, "rediss+cluster": 6379}
SENTINEL_PORT = 26379


class QueueRegistration(msgspec.Struct):
    """A worker of a queue, by its name."""

    queue: Annotated[str, Meta(extra_json_schema={"pattern": f"^{NAME.pattern}$"})]
    hostname: str = ""
    os: str = ""
    version: str = ""
    worker_id: str = ""


_decode = msgspec.json.Decoder(QueueRegistration).decode


class RunqyRegister:
    """The operation `/worker/register`."""

    def __init__(self, endpoints: Endpoints, vaults: Vaults, access: Access, settings: Settings) -> None:
        self._endpoints = endpoints
        self._vaults = vaults
        self._access = access
        self._settings = settings

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        return {("/worker/register", "POST"): Managed(self.register, Scope.WORKER, "worker.register")}

    @described(
        types.QueueRegistered, body=QueueRegistration,
        errors={404: "there is no such queue", 409: "the queue has no deployment", 500: "a vault cannot be had"},
    )  # fmt: skip
    async def register(self, call: Call) -> Answer:
        """What a worker of a queue has to know, with the values of the vaults that the queue lists.

        The store's password is not in it, which Runqy hands to all of its workers: to take jobs, a worker registers
        at `/v2/{endpoint}/workers` next, and gets a user of its own there that can touch its endpoint alone.
        """
        registration = await self._registration(call)
        found = await self._find(call, registration.queue)
        endpoint, deployment = found.endpoint, found.endpoint.config.queue.deployment
        if deployment is None:
            raise Conflict(
                f"queue '{registration.queue}' has no deployment: it has neither a git_url nor a startup_cmd"
            )
        chosen = next((each for each in found.enabled if each.name == DEFAULT), found.enabled[0])
        answer = types.QueueRegistered(
            redis=types.StoreAddress(address_of(self._settings), "", 0, _uses_tls(self._settings)),
            queue=types.RegisteredQueue(registration.queue, chosen.priority, deployment.mode),
            sub_queues=[types.QueueSummary(f"{endpoint.id}.{each.name}", each.priority) for each in found.enabled],
            deployment=msgspec.convert(deployment, types.RegisteredDeployment, from_attributes=True),
            runlane=types.RegisteredEndpoint(
                endpoint.id, endpoint.lease_ms, [found.sub_queue] if found.sub_queue else []
            ),
            **await self._secrets(call, endpoint, deployment),
        )
        return Reply(msgspec.json.encode(answer))

    async def _registration(self, call: Call) -> QueueRegistration:
        try:
            registration = _decode(await call.body(MOST_BYTES, self._settings.body_seconds))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if "missing required field `queue`" in str(error):
                raise BadRequest("queue name is required") from None
            raise BadRequest(f"invalid request: {error}") from None
        call.facts["queue"] = registration.queue[:200]
        for name in ("hostname", "worker_id"):
            if value := getattr(registration, name):
                call.facts[name] = value[:200]
        if not registration.queue:
            raise BadRequest("queue name is required")
        if not NAME.fullmatch(registration.queue):
            raise BadRequest("invalid queue name: must be 1-128 chars, alphanumeric with dots, hyphens, underscores")
        return registration

    async def _find(self, call: Call, name: str) -> Named:
        found = await named(self._endpoints, call.tenant, name)
        if found is None or not found.enabled:
            tried = "" if "." in name else f" (also tried '{name}.{DEFAULT}')"
            raise NotFound(f"queue '{name}' not found{tried}")
        call.facts["endpoint"] = found.endpoint.id
        await use(call, self._access, found.endpoint)
        return found

    async def _secrets(self, call: Call, endpoint: Endpoint, deployment: Deployment) -> dict[str, Any]:
        """The values of the vaults, and the token. That a token cannot be had is an error here, not silence as in
        Runqy: the worker would fail all the same, and could only say that git was refused."""
        reference = deployment.token_in_vault
        if not deployment.vaults and reference is None:
            return {"git_token": deployment.git_token} if deployment.git_token else {}
        call.facts["vaults"] = " ".join(sorted(endpoint.config.queue.vaults))
        if not self._vaults.enabled:
            raise Error(
                f"vaults requested for queue {endpoint.id} but vaults feature is not configured "
                "(set RUNQY_VAULT_MASTER_KEY)"
            )
        found: dict[str, Any] = {}
        if values := await self._vaults.environment(call.tenant, deployment.vaults):
            found["vaults"] = values
        if token := await self._token(call, deployment):
            found["git_token"] = token
        return found

    async def _token(self, call: Call, deployment: Deployment) -> str:
        reference = deployment.token_in_vault
        if reference is None:
            return deployment.git_token
        vault, key = reference
        try:
            return await self._vaults.value(call.tenant, vault, key)
        except NotFound as error:
            raise Error(f"failed to resolve git_token from vault '{vault}': {error.message}") from None


def address_of(settings: Settings) -> str:
    """HOST:PORT of the store as workers reach it, the first of several; without user and password."""
    parts = urlsplit(settings.worker_redis_url or settings.redis_url)
    place = parts.netloc.rpartition("@")[2].partition(",")[0]
    if not place:
        return parts.path  # of a socket
    if ":" in place.rpartition("]")[2]:
        return place
    return f"{place}:{REDIS_PORTS.get(parts.scheme, SENTINEL_PORT)}"


def _uses_tls(settings: Settings) -> bool:
    return urlsplit(settings.worker_redis_url or settings.redis_url).scheme.startswith("rediss")
