"""Ends a key: the requests that came with it, and the workers that did."""

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
        if Scope.WORKER in key.terms.scopes:
            ids = key.terms.endpoints or [endpoint.id for endpoint in await self._endpoints.list(tenant)]
            for endpoint in ids:
                await self._dismiss(keys.name_of(tenant, endpoint), key)
        return key

    async def _dismiss(self, endpoint: str, key: Key) -> None:
        """Lets the workers of an endpoint go that came with the key."""
        skip = 0
        while True:
            try:
                found = await self._engine.workers(endpoint, skip, WORKERS_PER_LOOK)
            except NotFound:
                return
            for worker in found:
                if worker.key == key.id:
                    await self._credentials.revoke(endpoint, worker.id)
                    await self._engine.leave(endpoint, worker.id)
                else:
                    skip += 1
            if len(found) < WORKERS_PER_LOOK:
                return
