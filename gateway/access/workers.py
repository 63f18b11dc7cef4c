"""Lets workers in: each has a key that is good for one endpoint and for nothing but working."""

import asyncio
import time

from ..engine.endpoints import Endpoint, Endpoints
from ..errors import Unauthorized
from ..http import Call
from .keys import WorkerKeys

SECONDS_TO_REMEMBER = 2.0
"""An endpoint is not looked up for each of the calls of its workers."""


class WorkerAccess:
    """Checks the keys that workers come with."""

    def __init__(self, endpoints: Endpoints, keys: WorkerKeys) -> None:
        self._endpoints = endpoints
        self._keys = keys
        self._known: dict[str, tuple[float, asyncio.Future[Endpoint]]] = {}

    async def admit(self, call: Call) -> Endpoint:
        """The endpoint of the call's path, whose worker it is that calls.

        Raises:
            NotFound: no such endpoint.
            Unauthorized: no key, or not one for this endpoint.
        """
        try:
            return self._check(call, await self._endpoint(call.endpoint))
        except Unauthorized:
            self._known.pop(call.endpoint, None)  # it may have been made anew
            return self._check(call, await self._endpoint(call.endpoint))

    def _check(self, call: Call, endpoint: Endpoint) -> Endpoint:
        self._keys.check(endpoint.id, endpoint.worker_key, call.header(b"authorization"))
        return endpoint

    async def _endpoint(self, id: str) -> Endpoint:
        known = self._known.get(id)
        if known is None or known[0] < time.monotonic():
            looking = asyncio.ensure_future(self._endpoints.get(id))
            known = self._known[id] = (time.monotonic() + SECONDS_TO_REMEMBER, looking)
        try:
            return await asyncio.shield(known[1])
        except Exception:
            if self._known.get(id) is known:
                del self._known[id]
            raise
