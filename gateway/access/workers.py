"""Lets workers in, and knows the endpoints that they are of."""

import asyncio
import time
from typing import NamedTuple

from ..engine.endpoints import Endpoint, Endpoints
from ..errors import Unavailable
from ..http import Call
from .access import Access
from .keys import Scope

SECONDS_TO_REMEMBER = 2.0
"""An endpoint is not looked up for each of the calls of its workers."""


class _Look(NamedTuple):
    at: float
    endpoint: "asyncio.Future[Endpoint]"


class WorkerAccess:
    """Checks the keys that workers come with."""

    def __init__(self, endpoints: Endpoints, access: Access) -> None:
        self._endpoints = endpoints
        self._looks: dict[str, _Look] = {}
        self.clients = access

    async def admit(self, call: Call) -> Endpoint:
        """The endpoint of the call's path, whose worker it is that calls. While the store is away, it is as it was.

        Raises:
            NotFound: no such endpoint.
            Unauthorized: no key, or a wrong one.
            Forbidden: a key that is not for workers of this endpoint.
            Unavailable: the store is away, and the endpoint was not known before.
        """
        await self.clients.admit(call, Scope.WORKER)
        name = call.endpoint
        before = self._looks.get(name)
        if before is not None and time.monotonic() - before.at <= SECONDS_TO_REMEMBER:
            return await asyncio.shield(before.endpoint)
        look = self._looks[name] = _Look(time.monotonic(), asyncio.ensure_future(self._endpoints.get(name)))
        try:
            return await asyncio.shield(look.endpoint)
        except Exception as error:
            if self._looks.get(name) is look:
                del self._looks[name]
            if before is None or not isinstance(error, Unavailable):
                raise
            self._looks.setdefault(name, before)
            return await asyncio.shield(before.endpoint)
