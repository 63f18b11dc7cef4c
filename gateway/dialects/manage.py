"""Management of endpoints, as the serverless part of RunPod's REST API v1: https://docs.runpod.io/api-reference"""

import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from ..access.credentials import Credentials
from ..engine.endpoints import Config, Endpoint, Endpoints, parse_config
from ..errors import BadRequest
from ..http import Answer, Call, Operation, Reply
from ..outbound import Outbound
from ..settings import Settings

MOST_BYTES = 1_000_000


class Manage:
    """The operations under /v1/endpoints."""

    def __init__(self, endpoints: Endpoints, credentials: Credentials, outbound: Outbound, settings: Settings) -> None:
        self._endpoints = endpoints
        self._credentials = credentials
        self._outbound = outbound
        self._settings = settings

    def operations(self) -> dict[tuple[str, str], Operation]:
        """(path, method) and operation."""
        one = "/v1/endpoints/{endpoint}"
        return {
            ("/v1/endpoints", "POST"): self.create,
            ("/v1/endpoints", "GET"): self.list,
            (one, "GET"): self.show,
            (one, "PATCH"): self.update,
            (one, "DELETE"): self.delete,
            (f"{one}/update", "POST"): self.update,
        }

    async def create(self, call: Call) -> Answer:
        """Makes an endpoint. The answer has its `workerKey`, this once."""
        fields = await self._fields(call)
        id = fields.pop("id", None)
        if id is None:
            id = secrets.token_hex(7)
        if not isinstance(id, str):
            raise BadRequest("id must be a string")
        config = parse_config(fields)
        if not config.name:
            config = msgspec.structs.replace(config, name=id)
        endpoint, worker_key = await self._endpoints.create(id, config)
        return Reply(orjson.dumps({**_shown(endpoint), "workerKey": worker_key}), 201)

    async def list(self, call: Call) -> Answer:  # noqa: ARG002
        """All endpoints."""
        return Reply(orjson.dumps([_shown(endpoint) for endpoint in await self._endpoints.list()]))

    async def show(self, call: Call) -> Answer:
        """One endpoint."""
        return Reply(orjson.dumps(_shown(await self._endpoints.get(call.endpoint))))

    async def update(self, call: Call) -> Answer:
        """Changes the fields that are in the body."""
        return Reply(orjson.dumps(_shown(await self._endpoints.update(call.endpoint, await self._fields(call)))))

    async def delete(self, call: Call) -> Answer:
        """Deletes the endpoint; its waiting and running jobs are cancelled."""
        await self._endpoints.delete(call.endpoint)
        await self._credentials.revoke_all(call.endpoint)
        return Reply(b"", 204)

    async def _fields(self, call: Call) -> dict[str, Any]:
        body = await call.body(MOST_BYTES, self._settings.body_seconds)
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise BadRequest("the body is not valid JSON") from None
        if not isinstance(fields, dict):
            raise BadRequest("the body must be a JSON object")
        if isinstance(fields.get("webhook"), str):
            fields["webhook"] = self._outbound.check_url(fields["webhook"])
        return fields


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    created = datetime.fromtimestamp(endpoint.created / 1000, UTC).isoformat(timespec="milliseconds")
    config: Config = endpoint.config
    fields: dict[str, Any] = msgspec.to_builtins(config)
    return {"id": endpoint.id, **fields, "createdAt": created, "version": endpoint.version, "workers": []}
