"""A worker's place among the workers of its endpoint, kept by calls to the store itself."""

import asyncio
import json
import logging
from collections.abc import Callable

from . import Attempt, LinkError, RefusedError, Registered, Told
from .registration import Registration
from .store import Store

logger = logging.getLogger("runlane.link")

LEAVE_SECONDS = 5.0


class RedisMembership:
    """See `Membership`."""

    def __init__(self, registration: Registration, on_registered: Callable[[], None]) -> None:
        self._registration = registration
        self._on_registered = on_registered
        self._store = Store(registration.renew, self._missed)
        self._described = 0
        self._on_missed: Callable[[], None] = lambda: None

    @property
    def registered(self) -> Registered:
        return self._store.registered

    async def enter(self, registered: Registered) -> None:
        await self._store.open(registered)
        await self._store.call("leave", registered.worker)

    async def renew(self, concurrency: int, state: str, attempts: list[Attempt]) -> list[tuple[Attempt, str]]:
        registered = self.registered
        is_described = self._described == registered.serial
        description = "" if is_described else json.dumps(self._registration.description)
        pairs = [value for attempt in attempts for value in attempt]
        reply = await self._store.call(
            "renew", registered.worker, registered.gone_ms, concurrency, state, description, *pairs
        )
        self._described = registered.serial
        rows = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [(Attempt(job.decode(), int(number)), found.decode()) for job, number, found in rows]

    async def listen(self, on_stop: Callable[[Attempt, str], None], on_missed: Callable[[], None]) -> None:
        self._on_missed = on_missed

        def on_message(message: bytes) -> None:
            job, number, state = message.decode().split(" ")
            on_stop(Attempt(job, int(number)), state)

        await self._store.receive("stops", on_message, on_missed)

    async def lose(self, attempt: Attempt, reason: str) -> None:
        await self._store.report("lose", attempt, reason)

    async def give_back(self, begun: list[Attempt]) -> None:
        pairs = [value for attempt in begun for value in attempt]
        await self._store.call("join", self.registered.worker, *pairs)

    async def tell(self, told: Told) -> bool:
        lines = [value for line in told.lines for value in line]
        return await self._store.try_once("tell", self.registered.worker, told.figures, told.run, told.first, *lines)

    async def leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._store.call("leave", self.registered.worker)
        except (TimeoutError, LinkError, RefusedError):
            logger.warning("could not say goodbye to the store; what this worker held goes back when its lease ends")
        await self._store.close()  # before the gateway takes its user away
        await self._registration.leave(self.registered.worker)

    def _missed(self) -> None:
        self._on_registered()
        self._on_missed()
