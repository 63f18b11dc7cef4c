"""A worker's place among the workers of its endpoint, kept over HTTP."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from . import Attempt, LinkError, LostReplyError, Registered, Told
from .gateway import POLL_SECONDS, Gateway, pairs_of, path_of
from .http_connection import Request
from .registration import Registration

logger = logging.getLogger("runlane.link")

SECONDS_TO_PAUSE = 5.0


class HttpMembership:
    """See `Membership`."""

    def __init__(self, registration: Registration, on_registered: Callable[[], None]) -> None:
        self._registration = registration
        self._gateway = Gateway(registration.renew, on_registered)
        self._described = 0

    @property
    def registered(self) -> Registered:
        return self._gateway.registered

    async def enter(self, registered: Registered) -> None:
        await self._gateway.open(registered)

    async def renew(self, concurrency: int, state: str, attempts: list[Attempt]) -> list[tuple[Attempt, str]]:
        registered = self.registered
        body: dict[str, Any] = {
            "gone_ms": registered.gone_ms,
            "concurrency": concurrency,
            "state": state,
            "attempts": pairs_of(attempts),
        }
        if self._described != registered.serial:
            body["description"] = self._registration.description
        path = path_of("ping", registered.worker)
        lapsed = await self._gateway.call("POST", path, body, lambda answer: _stops_in(answer, "lapsed"))
        self._described = registered.serial
        return lapsed

    async def listen(self, on_stop: Callable[[Attempt, str], None], on_missed: Callable[[], None]) -> None:
        is_listening = False  # the gateway keeps stops for the next poll, from the first one on
        while True:
            wait = POLL_SECONDS if is_listening else 0
            path = path_of("job-stop", self.registered.worker, attempts=1, wait=wait * 1000)
            poll = self._gateway.begin(Request("GET", path, wait=wait, repeats=not is_listening))
            try:
                stops = await self._gateway.complete(poll, lambda answer: _stops_in(answer, "stops"))
            except LostReplyError:
                is_listening = False
                continue
            except LinkError as error:
                logger.error("the gateway refuses to tell what to stop: %s", error)  # noqa: TRY400
                await asyncio.sleep(SECONDS_TO_PAUSE)
                continue
            for stop in stops:
                on_stop(*stop)
            if not is_listening:
                is_listening = True
                on_missed()

    async def lose(self, attempt: Attempt, reason: str) -> None:
        path = path_of("job-lost", self.registered.worker, attempt.job, attempt=attempt.number)
        request = Request("POST", path, json.dumps({"error": reason}).encode())
        await self._gateway.report(attempt, self._gateway.begin(request))

    async def give_back(self, begun: list[Attempt]) -> None:
        await self._gateway.give_back(begun)

    async def tell(self, told: Told) -> bool:
        body: dict[str, Any] = {"run": told.run, "first": told.first, "lines": told.lines}
        if told.figures:
            body["metrics"] = json.loads(told.figures)
        path = path_of("tell", self.registered.worker)
        exchange = self._gateway.begin(Request("POST", path, json.dumps(body).encode()))
        try:
            return (await exchange.answer).status == 200
        except OSError as error:
            logger.debug("the gateway was not told: %s", error)
            return False

    async def leave(self) -> None:
        await self._gateway.close()
        await self._registration.leave(self.registered.worker)


def _stops_in(answer: bytes, field: str) -> list[tuple[Attempt, str]]:
    """Attempts and the states of their jobs; none in an empty answer."""
    rows = json.loads(answer)[field] if answer else []
    return [(Attempt(job, number), state) for job, number, state in rows]
