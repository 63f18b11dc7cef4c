"""What every gateway process has to know at once: which addresses are blocked, and which keys are revoked.

A process reads the stream of news from where it was, so that nothing is missed while a connection is made anew; at the
beginning it asks for what there is. Should it hear nothing at all, keys are looked up again twice a second anyway.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from redis.exceptions import RedisError

from ..engine import keys
from ..engine.batching import Batcher
from ..engine.tasks import end
from ..errors import Unavailable
from ..store import OUTAGES, Store
from .addresses import MOST_BLOCKED

logger = logging.getLogger(__name__)

MS_TO_WAIT = 4000
SECONDS_BEFORE_NEXT_TRY = 0.5
STREAM = f"{keys.ACCESS}:news"


class News:
    """Reads the news of a gateway process."""

    def __init__(
        self,
        store: Store,
        batcher: Batcher,
        on_blocked: Callable[[str, int], None],
        on_revoked: Callable[[str], None],
    ) -> None:
        """`on_blocked` is called with an address and ms, `on_revoked` with the SHA-256 of a key, in hex."""
        self._store = store
        self._batcher = batcher
        self._on_blocked = on_blocked
        self._on_revoked = on_revoked
        self._last = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Asks for what there is, and reads on from there."""
        await self._catch_up()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends the reading."""
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self._read()
            except (*OUTAGES, RedisError, Unavailable) as error:
                logger.debug("no news from the store: %s", error)
                await asyncio.sleep(SECONDS_BEFORE_NEXT_TRY)

    async def _catch_up(self) -> None:
        last, blocked = await self._batcher.call(keys.ACCESS, "blocked", MOST_BLOCKED)
        self._last = last.decode()
        for address, ms in zip(blocked[::2], blocked[1::2], strict=True):
            self._on_blocked(address.decode(), int(ms))

    async def _read(self) -> None:
        client = cast(Any, self._store.node_of(STREAM))
        found = await client.xread({STREAM: self._last}, count=1000, block=MS_TO_WAIT)
        for id, item in found[0][1] if found else ():
            if b"revoked" in item:
                self._on_revoked(item[b"revoked"].decode())
            elif b"blocked" in item:
                self._on_blocked(item[b"blocked"].decode(), int(item[b"ms"]))
            self._last = id.decode()
