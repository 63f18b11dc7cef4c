"""What has to happen though nobody asks for it: lost leases, timeouts, delayed retries, times to live, silent workers.

Every gateway process runs this; a key that expires says whose turn it is, so that one does it at a time and another
takes over when that one is gone. Two at once would do no harm, since each step is an atomic function.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.exceptions import RedisError

from ..errors import Unavailable
from ..store import OUTAGES, Store
from . import keys
from .batching import Batcher
from .tasks import end

WorkerGone = Callable[[str, str], Awaitable[None]]
WebhooksDue = Callable[[str], object]
logger = logging.getLogger(__name__)

SECONDS_BETWEEN_ROUNDS = 0.25
TURN_MS = 1500
MOST_PER_CALL = 200

SECONDS_TO_SETTLE = 5.0
"""What workers get to renew their leases when upkeep could not run for a while; see the function."""

SECONDS_BETWEEN_WARNINGS = 10.0


class Upkeep:
    """The background task of a gateway process."""

    def __init__(
        self,
        store: Store,
        batcher: Batcher,
        process: str,
        worker_gone: WorkerGone,
        webhooks_due: WebhooksDue,
        keys_expired: Callable[[], Awaitable[None]],
    ) -> None:
        """`worker_gone` is called with endpoint and worker when a worker has been silent for too long, `webhooks_due`
        with an endpoint as often as some are seen to be due, `keys_expired` in each round."""
        self._store = store
        self._batcher = batcher
        self._process = process
        self._worker_gone = worker_gone
        self._webhooks_due = webhooks_due
        self._keys_expired = keys_expired
        self._quiet_until = 0.0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the rounds."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends the rounds after the call under way."""
        self._stopping = True
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        while not self._stopping:
            try:
                if await self._my_turn():
                    await self.round()
            except (*OUTAGES, RedisError, Unavailable) as error:
                self._tell(f"upkeep cannot reach the store: {error}")
            except Exception:
                logger.exception("upkeep failed; trying again")
            await asyncio.sleep(SECONDS_BETWEEN_ROUNDS)

    async def round(self) -> None:
        """Does all that is due in every endpoint."""
        endpoints = await cast(Any, self._store.commands.smembers(keys.ENDPOINTS))
        await asyncio.gather(*(self._tend(endpoint.decode()) for endpoint in endpoints))
        await self._keys_expired()

    async def _tend(self, endpoint: str) -> None:
        try:
            await self._tend_to(endpoint)
        except (*OUTAGES, RedisError, Unavailable) as error:
            self._tell(f"upkeep of endpoint {endpoint}: {error}")

    def _tell(self, trouble: str) -> None:
        """Once in a while, not in every round."""
        if time.monotonic() >= self._quiet_until:
            logger.warning(trouble)
            self._quiet_until = time.monotonic() + SECONDS_BETWEEN_WARNINGS

    async def _tend_to(self, endpoint: str) -> None:
        more = True
        while more:
            settle = round(SECONDS_TO_SETTLE * 1000)
            done = await self._batcher.call(keys.base(endpoint), "upkeep", MOST_PER_CALL, settle)
            recovered, timed_out, _, _, gone, webhooks = done
            more = max(*done[:4], len(gone)) >= MOST_PER_CALL
            if webhooks:
                self._webhooks_due(endpoint)
            for worker in gone:
                await self._worker_gone(endpoint, worker.decode())
            if recovered or timed_out:
                logger.info("endpoint %s: %d leases recovered, %d jobs timed out", endpoint, recovered, timed_out)

    async def _my_turn(self) -> bool:
        return bool(await self._batcher.call(keys.UPKEEP, "turn", self._process, TURN_MS))
