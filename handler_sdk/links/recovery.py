"""What a worker does while the other end of its link does not serve it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from . import Backoff, Register, Registered, UnreachableError

logger = logging.getLogger("runlane.link")

REGISTER_SECONDS = 1.0

# What is over sooner is not told: one that ends in good order may answer some calls and refuse others for a moment.
UNTOLD_SECONDS = 0.3


class Recovery:
    """Says once that there is an outage, and once that it is over; registers the worker again where that may help."""

    def __init__(
        self,
        other_end: str,
        newest: Callable[[], Registered],
        register: Register,
        reopen: Callable[[Registered], Awaitable[None]],
        on_restored: Callable[[], None],
        outage_level: int,
    ) -> None:
        """
        Args:
            other_end: who answers, for the log.
            newest: returns the registration by which calls go now.
            register: see `Register`.
            reopen: has calls go by a new registration; raises UnreachableError.
            on_restored: called when there are answers again after an outage.
            outage_level: of the log lines.
        """
        self._other_end = other_end
        self._newest = newest
        self._register = register
        self._reopen = reopen
        self._on_restored = on_restored
        self._outage_level = outage_level
        self._lost_at: float | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._registering = asyncio.Lock()
        self._registered_at = 0.0

    @property
    def seconds(self) -> float:
        """How long there has been no answer."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    def note_answer(self) -> None:
        """There was an answer: an outage is over."""
        if self._lost_at is None:
            return
        seconds, self._lost_at = self.seconds, None
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        else:
            logger.log(self._outage_level, "%s is back after %.1f s", self._other_end, seconds)
        self._on_restored()

    async def recover(self, problem: str, must_register: bool, backoff: Backoff) -> None:
        """There was no answer, or one that says to come back: registers again if it must, and pauses. Raises
        RefusedError."""
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._telling = asyncio.get_running_loop().call_later(UNTOLD_SECONDS, self._tell, problem)
        if must_register:
            await self._register_again()
        await asyncio.sleep(backoff.next())

    def _tell(self, problem: str) -> None:
        self._telling = None
        logger.log(self._outage_level, "%s does not serve this worker: %s", self._other_end, problem)

    async def _register_again(self) -> None:
        """Has another registration take the place of this one, unless that happened already, or is tried too often."""
        before = self._newest()
        async with self._registering:
            if self._newest() is not before or time.monotonic() - self._registered_at < REGISTER_SECONDS:
                return
            self._registered_at = time.monotonic()
            try:
                await self._reopen(await self._register(before))
            except UnreachableError as error:
                logger.debug("could not register again: %s", error)
