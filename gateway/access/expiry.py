"""Ends what goes on with keys that have expired. Nobody tells when that is, and a request that follows a log has no
end of its own: it would outlive its key for as long as its client likes."""

import asyncio
import logging

from redis.exceptions import RedisError

from ..engine.tasks import end
from ..errors import Unavailable
from ..store import OUTAGES
from .access import Access

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 2.0


class Expiry:
    """Looks after the keys with which requests are under way in a gateway process."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Looks from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends the looking."""
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            try:
                await self._access.end_expired()
            except (*OUTAGES, RedisError, Unavailable) as error:
                logger.debug("nobody knows which keys have expired: %s", error)
