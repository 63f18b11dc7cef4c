"""The users of workers at the store, and by which key each came: when that ends, so do they.

Which worker came by which key stands with the keys themselves: a worker can write all that is its endpoint's.
"""

from typing import Any

from ..engine import keys
from ..engine.batching import Batcher
from ..engine.engine import Engine
from ..errors import Unauthorized
from .credentials import Credentials
from .keys import Key

WORKERS_PER_CALL = 500


class WorkerUsers:
    """Gives users to workers that register, and takes them away."""

    def __init__(self, credentials: Credentials, engine: Engine, batcher: Batcher) -> None:
        self._credentials = credentials
        self._engine = engine
        self._batcher = batcher

    async def grant(self, endpoint: str, worker: str, key: Key, is_direct: bool) -> dict[str, Any] | None:
        """As `Credentials.grant`, for a worker that came with the key; None for one that does not come directly.

        Raises:
            Unauthorized: the key has ended meanwhile, and the worker is dismissed.
        """
        try:
            await self._note(endpoint, worker, key)
            granted = await self._credentials.grant(endpoint, worker) if is_direct else None
            await self._note(endpoint, worker, key)  # whoever ended it in between may not have met the user
        except Unauthorized:
            await self.dismiss(endpoint, worker)
            raise
        return granted

    async def revoke(self, endpoint: str, worker: str) -> None:
        """Deletes the worker's user, which closes its connections."""
        await self._credentials.revoke(endpoint, worker)
        await self._call("worker_went", _member(endpoint, worker))

    async def revoke_all(self, endpoint: str) -> None:
        """Deletes the users of all workers of an endpoint."""
        for worker in await self._credentials.revoke_all(endpoint):
            await self._call("worker_went", _member(endpoint, worker))

    async def end_of(self, key: Key) -> None:
        """Lets the workers go that came with the key; what they have goes back."""
        while found := await self._call("workers_of", key.id, WORKERS_PER_CALL):
            await self._dismiss(found)

    async def end_of_expired(self) -> None:
        """The same for all keys that have expired."""
        await self._dismiss(await self._call("workers_due", WORKERS_PER_CALL))

    async def dismiss(self, endpoint: str, worker: str) -> int:
        """Lets a worker go; what it has goes back. Returns how many jobs that are."""
        await self.revoke(endpoint, worker)
        return await self._engine.leave(endpoint, worker)

    async def _dismiss(self, members: list[bytes]) -> None:
        for member in members:
            endpoint, _, worker = member.decode().partition(" ")
            await self.dismiss(endpoint, worker)

    async def _note(self, endpoint: str, worker: str, key: Key) -> None:
        if not key.created:
            return  # it is set, and ends with the gateway's settings
        if not await self._call("worker_came", key.digest, key.id, _member(endpoint, worker)):
            raise Unauthorized

    async def _call(self, function: str, *arguments: str | int) -> Any:
        return await self._batcher.call(keys.ACCESS, function, *arguments)


def _member(endpoint: str, worker: str) -> str:
    return f"{endpoint} {worker}"
