"""The keys that were made with `runlane key` or over HTTP, in the store."""

import secrets
import time
from typing import Any

import msgspec

from ..engine import keys
from ..engine.batching import Batcher
from ..errors import Conflict, NotFound
from .keys import Key, Scope, Terms, digest, key_of, new_secret

_encode = msgspec.json.Encoder().encode


class StoredKeys:
    """The keys of all tenants."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def create(self, tenant: str, terms: Terms, seconds: float | None = None) -> tuple[Key, str]:
        """Makes a key, good for so many seconds or for ever. Returns it with its secret, which is not kept.

        Raises:
            Conflict: the tenant has too many.
        """
        secret = new_secret(terms.scopes)
        key = Key(f"k{secrets.token_hex(8)}", tenant, digest(secret), terms, round(time.time() * 1000))
        ms = 0 if seconds is None else round(seconds * 1000)
        reply = await self._call("key_add", tenant, key.id, key.digest, _encode(key), ms)
        if reply == b"FULL":
            raise Conflict(f"tenant {tenant} has as many keys as there may be; revoke one first")
        return key_of(*reply), secret

    async def are_there_any(self) -> bool:
        """Whether a key was ever made."""
        return bool(await self._call("key_made"))

    async def list(self, tenant: str) -> list[Key]:
        """A tenant's keys, the oldest first."""
        found = [key_of(*reply) for reply in await self._call("key_list", tenant)]
        return sorted(found, key=lambda key: (key.created, key.id))

    async def get(self, tenant: str, id: str) -> Key:
        """One key.

        Raises:
            NotFound: the tenant has none with this id.
        """
        return _found(await self._call("key_get", tenant, id))

    async def expire(self, tenant: str, id: str, seconds: float) -> Key:
        """Has a key end after so many seconds, unless it ends sooner, and the workers that came with it then too.

        Raises:
            NotFound: the tenant has none with this id.
        """
        return _found(await self._call("key_expire", tenant, id, round(seconds * 1000)))

    async def revoke(self, tenant: str, id: str) -> Key:
        """Ends a key, on every gateway within a second.

        Raises:
            NotFound: the tenant has none with this id.
        """
        return _found(await self._call("key_revoke", tenant, id))

    async def revoke_workers_of(self, tenant: str, endpoint: str) -> None:
        """Ends the keys that are good for the workers of one endpoint and nothing else."""
        for key in await self.list(tenant):
            if key.terms.endpoints == (endpoint,) and key.terms.scopes == {Scope.WORKER}:
                await self.revoke(tenant, key.id)

    async def _call(self, function: str, *arguments: str | bytes | int) -> Any:
        return await self._batcher.call(keys.ACCESS, function, *arguments)


def _found(reply: tuple[bytes, int] | None) -> Key:
    if reply is None:
        raise NotFound("no such key")
    return key_of(*reply)
