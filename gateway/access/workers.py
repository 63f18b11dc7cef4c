"""Lets workers in: each has a key that is good for one endpoint and for nothing but working."""

import asyncio
import time
from typing import NamedTuple

from ..engine.endpoints import Endpoint, Endpoints
from ..errors import Unauthorized, Unavailable
from ..http import Call
from .keys import WorkerKeys

SECONDS_TO_REMEMBER = 2.0
"""An endpoint is not looked up for each of the calls of its workers."""

SECONDS_BETWEEN_LOOKS = 0.2
"""Nor for each wrong key, in case that it is a new one."""


class _Look(NamedTuple):
    at: float
    endpoint: "asyncio.Future[Endpoint]"


class WorkerAccess:
    """Checks the keys that workers come with."""

    def __init__(self, endpoints: Endpoints, keys: WorkerKeys) -> None:
        self._endpoints = endpoints
        self._keys = keys
        self._looks: dict[str, _Look] = {}

    async def admit(self, call: Call) -> Endpoint:
        """The endpoint of the call's path, whose worker it is that calls. While the store is away, it is as it was.

        Raises:
            NotFound: no such endpoint.
            Unauthorized: no key, or not one for this endpoint.
            Unavailable: the store is away, and the endpoint was not known before.
        """
        try:
            return self._check(call, await self._endpoint(call.endpoint, SECONDS_TO_REMEMBER))
        except Unauthorized:
            return self._check(call, await self._endpoint(call.endpoint, SECONDS_BETWEEN_LOOKS))

    def _check(self, call: Call, endpoint: Endpoint) -> Endpoint:
        self._keys.check(endpoint.id, endpoint.worker_key, call.header(b"authorization"))
        return endpoint

    async def _endpoint(self, id: str, most_seconds_ago: float) -> Endpoint:
        before = self._looks.get(id)
        if before is not None and time.monotonic() - before.at <= most_seconds_ago:
            return await asyncio.shield(before.endpoint)
        look = self._looks[id] = _Look(time.monotonic(), asyncio.ensure_future(self._endpoints.get(id)))
        try:
            return await asyncio.shield(look.endpoint)
        except Exception as error:
            if self._looks.get(id) is look:
                del self._looks[id]
            if before is None or not isinstance(error, Unavailable):
                raise
            self._looks.setdefault(id, before)
            return await asyncio.shield(before.endpoint)
