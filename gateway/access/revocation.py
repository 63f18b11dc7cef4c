"""Ends a key, now or later: the requests that came with it, and the workers that did."""

from collections.abc import AsyncIterator

from ..engine import keys
from ..engine.endpoints import Endpoints
from ..engine.engine import Engine
from ..errors import NotFound
from .credentials import Credentials
from .keys import Key, Scope
from .stored_keys import StoredKeys

WORKERS_PER_LOOK = 500


class Revocation:
    """Revokes keys with all that they gave."""

    def __init__(self, stored: StoredKeys, endpoints: Endpoints, engine: Engine, credentials: Credentials) -> None:
        self._stored = stored
        self._endpoints = endpoints
        self._engine = engine
        self._credentials = credentials

    async def revoke(self, tenant: str, id: str) -> Key:
        """Ends a key. Every gateway process hears of it and hangs up on whoever uses it; workers that came with it lose
        their users at the store, and their jobs go back.

        Raises:
            NotFound: the tenant has no such key.
        """
        key = await self._stored.revoke(tenant, id)
        async for endpoint, worker in self._workers_with(key):
            await self._credentials.revoke(endpoint, worker)
            await self._engine.leave(endpoint, worker)
        return key

    async def expire(self, tenant: str, id: str, seconds: float) -> Key:
        """Has a key end after so many seconds, unless it ends sooner, and the workers that came with it then too.

        Raises:
            NotFound: the tenant has no such key.
        """
        key = await self._stored.expire(tenant, id, seconds)
        async for endpoint, worker in self._workers_with(key):
            await self._engine.note_key(endpoint, worker, key.id, key.expires)
        return key

    async def _workers_with(self, key: Key) -> AsyncIterator[tuple[str, str]]:
        """The endpoints and workers of a key: those that have users, and those that come over HTTP."""
        if Scope.WORKER not in key.terms.scopes:
            return
        with_users = await self._credentials.workers_with(key.id)
        for endpoint, worker in with_users:
            yield endpoint, worker
        ids = key.terms.endpoints or [endpoint.id for endpoint in await self._endpoints.list(key.tenant)]
        for endpoint in (keys.name_of(key.tenant, id) for id in ids):
            for worker in await self._listed(endpoint, key):
                if (endpoint, worker) not in with_users:
                    yield endpoint, worker

    async def _listed(self, endpoint: str, key: Key) -> list[str]:
        found: list[str] = []
        skip = 0
        while True:
            try:
                workers = await self._engine.workers(endpoint, skip, WORKERS_PER_LOOK)
            except NotFound:
                return found
            found += [worker.id for worker in workers if worker.key == key.id]
            skip += len(workers)
            if len(workers) < WORKERS_PER_LOOK:
                return found
