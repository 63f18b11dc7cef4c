"""How workers come and go. A worker registers over HTTP with its endpoint's worker key and gets what it needs to work
at the store directly; from then on it calls the engine's functions itself."""

import re
import secrets
from typing import Annotated

import msgspec
import orjson
from msgspec import Meta

from ..access.credentials import Credentials
from ..access.keys import WorkerKeys
from ..engine import keys
from ..engine.endpoints import Endpoints
from ..engine.engine import Engine
from ..errors import BadRequest, NotFound
from ..http import Answer, Call, Operation, Reply
from ..settings import Settings
from ..store import LIBRARY

MOST_BYTES = 64_000
_WORKER_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})?")


class _Registration(msgspec.Struct):
    id: Annotated[str, Meta(max_length=63)] | None = None
    description: dict[str, msgspec.Raw] = {}


_decode = msgspec.json.Decoder(_Registration).decode


class Workers:
    """The operations under /v2/{endpoint}/workers."""

    def __init__(
        self,
        engine: Engine,
        endpoints: Endpoints,
        credentials: Credentials,
        worker_keys: WorkerKeys,
        settings: Settings,
    ) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._credentials = credentials
        self._keys = worker_keys
        self._settings = settings

    def operations(self) -> dict[str, tuple[Operation, tuple[str, ...]]]:
        """Path under /v2/{endpoint}, operation and its methods."""
        return {
            "/workers": (self.register, ("POST",)),
            "/workers/{worker}": (self.leave, ("DELETE",)),
        }

    async def register(self, call: Call) -> Answer:
        """Takes a worker in, or gives one that lost its user at the store a new one."""
        endpoint = await self._endpoints.get(call.endpoint)
        self._keys.check(endpoint.id, endpoint.worker_key, call.header(b"authorization"))
        try:
            registration = _decode(await call.body(MOST_BYTES, self._settings.body_seconds) or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"not a registration: {error}") from None
        worker = registration.id or secrets.token_hex(8)
        if not _WORKER_ID.fullmatch(worker):
            raise BadRequest("a worker's id is 1 to 63 letters, digits, '.', '-' or '_'")
        await self._engine.introduce(
            endpoint.id, worker, endpoint.lease_ms, msgspec.json.encode(registration.description)
        )
        return Reply(
            orjson.dumps(
                {
                    "worker": worker,
                    "redis": await self._credentials.grant(endpoint.id, worker),
                    "library": LIBRARY,
                    "base": keys.base(endpoint.id),
                    "lease_ms": endpoint.lease_ms,
                    "output_limit": self._settings.output_limit,
                    "chunk_limit": self._settings.chunk_limit,
                }
            )
        )

    async def leave(self, call: Call) -> Answer:
        """Lets a worker go: its user is deleted, and what it still holds goes back into the queue."""
        endpoint = await self._endpoints.get(call.endpoint)
        self._keys.check(endpoint.id, endpoint.worker_key, call.header(b"authorization"))
        worker = call.parameters["worker"]
        if not _WORKER_ID.fullmatch(worker):
            raise NotFound("no such worker")
        await self._credentials.revoke(endpoint.id, worker)
        return Reply(orjson.dumps({"returned": await self._engine.leave(endpoint.id, worker)}))
