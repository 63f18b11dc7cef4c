"""Ends a key at once: the requests that came with it, and the workers that did."""

from .keys import Key
from .stored_keys import StoredKeys
from .worker_users import WorkerUsers


class Revocation:
    """Revokes keys with all that they gave."""

    def __init__(self, stored: StoredKeys, users: WorkerUsers) -> None:
        self._stored = stored
        self._users = users

    async def revoke(self, tenant: str, id: str) -> Key:
        """Ends a key. Every gateway process hears of it and hangs up on whoever uses it; workers that came with it lose
        their users at the store, and their jobs go back.

        Raises:
            NotFound: the tenant has no such key.
        """
        key = await self._stored.revoke(tenant, id)
        await self._users.end_of(key)
        return key
