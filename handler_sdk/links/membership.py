"""A worker's place among the workers of its endpoint, kept by calls to the store itself."""

import asyncio
import json
import logging
from collections.abc import Callable

from . import Attempt, Backoff, LinkError, RefusedError, Registered, UnreachableError
from .registration import Registration
from .store import Store

logger = logging.getLogger("runlane.link")

LEAVE_SECONDS = 5.0


class RedisMembership:
    """See `Membership`."""

    def __init__(self, registration: Registration, on_registered: Callable[[], None]) -> None:
        self._registration = registration
        self._on_registered = on_registered
        self._store = Store(self._register, self._missed)
        self._serial = 0
        self._described = 0
        self._on_missed: Callable[[], None] = lambda: None

    @property
    def registered(self) -> Registered:
        return self._store.registered

    @property
    def renewal_seconds(self) -> float:
        return min(5.0, self.registered.lease_ms / 6000)

    async def join(self) -> None:
        backoff, told = Backoff(0.2, 5.0), False
        while True:
            try:
                await self._store.open(await self._register(None))
            except UnreachableError as error:
                if not told:
                    logger.warning("waiting for the gateway at %s: %s", self._registration.url, error)
                told = True
                await asyncio.sleep(backoff.next())
            else:
                break
        logger.info("registered at %s as worker %s", self._registration.url, self.registered.worker)
        await self._store.call("leave", self.registered.worker)

    async def renew(self, concurrency: int, state: str, attempts: list[Attempt]) -> list[tuple[Attempt, str]]:
        serial = self._serial
        description = "" if self._described == serial else json.dumps(self._registration.description)
        gone_ms = round(max(3.0, 3 * self.renewal_seconds) * 1000)
        pairs = [value for attempt in attempts for value in attempt]
        reply = await self._store.call(
            "renew", self.registered.worker, gone_ms, concurrency, state, description, *pairs
        )
        self._described = serial
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

    async def leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._store.call("leave", self.registered.worker)
        except (TimeoutError, LinkError, RefusedError):
            logger.warning("could not say goodbye to the store; what this worker held goes back when its lease ends")
        await self._store.close()  # before the gateway takes its user away
        try:
            await self._registration.leave(self.registered.worker)
        except UnreachableError as error:
            logger.warning("could not say goodbye to the gateway: %s", error)

    async def _register(self, before: Registered | None) -> Registered:
        registered = await self._registration.join(before.worker if before else None, self._serial + 1)
        self._serial = registered.serial
        if before is not None:
            logger.info("registered again as worker %s", registered.worker)
        return registered

    def _missed(self) -> None:
        self._on_registered()
        self._on_missed()
