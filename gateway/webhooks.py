"""Sends webhooks: for each delivery that is due, a POST of the job object, signed as Standard Webhooks says.

The gateway process whose turn upkeep is claims what is due and delivers it; a claim ends by itself, so that another
process delivers again what this one had when it was killed. How much is under way at once is bounded, for each receiver
and for each tenant as well, and less for a receiver that is in trouble: what is dead keeps none but its own waiting.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from redis.exceptions import RedisError

import handler_sdk

from .access.webhook_secrets import WebhookSecret, WebhookSecrets, signatures
from .engine.deliveries import Claim, Deliveries, Outcome
from .engine.engine import Engine
from .engine.keys import tenant_of
from .engine.tasks import end
from .errors import NotFound, Unavailable
from .job_object import job_object
from .outbound import Failed, Outbound
from .settings import Settings
from .store import OUTAGES
from .webhook_room import Room

logger = logging.getLogger(__name__)

QUICK_RETRIES = 2
"""As RunPod's, at its distance (`webhook_retry_seconds`)."""

FIRST_BACKOFF, LONGEST_BACKOFF = 6, 1440
"""In units of that distance: 1 minute to 4 hours when it is 10 s."""

MOST_PER_CLAIM = 64
RELEASE_MS = 1000
SECONDS_TO_END = 5.0
SECONDS_BETWEEN_REPEATS = 0.5

GONE = 410
"""Standard Webhooks: the receiver wants no more of it."""

TOO_MANY = 429

USER_AGENT = f"runlane/{handler_sdk.__version__}"

BYTES_TO_SIGN_HERE = 262_144
"""To sign more takes so long that other requests would wait for it."""


class Webhooks:
    """The deliveries of one gateway process."""

    def __init__(
        self, engine: Engine, deliveries: Deliveries, secrets: WebhookSecrets, outbound: Outbound, settings: Settings
    ) -> None:
        self._engine = engine
        self._deliveries = deliveries
        self._secrets = secrets
        self._outbound = outbound
        self._settings = settings
        self._room = Room(settings.webhooks_at_once, settings.webhooks_at_once_per_receiver)
        self._due: dict[str, None] = {}
        self._news = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], tuple[str, Claim]] = {}
        self._claiming: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def _lease_ms(self) -> int:
        return round(2000 * self._settings.webhook_seconds)

    def start(self) -> None:
        """Begins to deliver what is said to be due."""
        self._claiming = asyncio.get_running_loop().create_task(self._run())

    def due(self, endpoint: str) -> None:
        """Some deliveries of this endpoint are due."""
        self._due[endpoint] = None
        self._news.set()

    async def stop(self) -> None:
        """Claims no more, lets what is under way come to its end, for a while, and gives back the rest."""
        self._stopping = True
        self._news.set()
        if self._claiming is not None:
            await asyncio.wait([self._claiming], timeout=SECONDS_TO_END)
            await end(self._claiming)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=SECONDS_TO_END)
        left = list(self._under_way.items())
        await asyncio.gather(*(self._give_back(task, endpoint, claim) for task, (endpoint, claim) in left))

    async def _run(self) -> None:
        while not self._stopping:
            await self._news.wait()
            self._news.clear()
            for endpoint in list(self._due):
                if self._stopping:
                    return
                try:
                    await self._claim(endpoint)
                except (*OUTAGES, Unavailable) as error:
                    self._due.pop(endpoint, None)  # upkeep will say so again
                    logger.debug("cannot claim the webhooks of endpoint %s: %s", endpoint, error)
                except Exception:
                    self._due.pop(endpoint, None)
                    logger.exception("cannot claim the webhooks of endpoint %s", endpoint)

    async def _claim(self, endpoint: str) -> None:
        """Claims as many as there is room for, and begins to deliver them. While others are due, the endpoint's turn
        comes again when something has ended."""
        tenant = tenant_of(endpoint)
        most = min(self._room.left(tenant), MOST_PER_CLAIM)
        if most <= 0:
            return
        claims, is_more = await self._deliveries.claim(
            endpoint, self._lease_ms, most, self._settings.webhooks_at_once_per_receiver,
            self._room.left_for_failing(tenant), self._room.taken(tenant),
        )  # fmt: skip
        self._due.pop(endpoint, None)
        if is_more:
            self._due[endpoint] = None  # behind the others
            if len(claims) == most:
                self._news.set()
        for claim in claims:
            if not self._stopping and self._room.enter(tenant, claim.receiver, claim.size):
                task = asyncio.get_running_loop().create_task(self._deliver(endpoint, claim))
                self._under_way[task] = endpoint, claim
                task.add_done_callback(self._ended)
            else:
                await self._release(endpoint, claim, RELEASE_MS)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        endpoint, claim = self._under_way.pop(task)
        self._room.leave(tenant_of(endpoint), claim.receiver, claim.size)
        if self._due:
            self._news.set()

    async def _deliver(self, endpoint: str, claim: Claim) -> None:
        began = time.monotonic()
        try:
            outcome, result = await self._try(endpoint, claim)
            logger.debug("webhook %s: %s", claim.id, result)
            await self._settle(endpoint, claim, outcome, result, began)
        except (*OUTAGES, Unavailable) as error:
            logger.debug("webhook %s will be delivered again: %s", claim.id, error)
        except Exception:
            logger.exception("webhook %s will be delivered again", claim.id)

    async def _try(self, endpoint: str, claim: Claim) -> tuple[Outcome, str]:
        """Sends it. Returns how that ended, and the status or what went wrong, in one word."""
        try:
            body = job_object(await self._engine.event(endpoint, claim.id, claim.job))
        except NotFound:
            return Outcome.FAILED, "gone"
        tenant = tenant_of(endpoint)
        secrets = await self._secrets.in_force(tenant)
        try:
            status = await self._post(tenant, claim, body, secrets)
        except Failed as failure:
            self._room.note(tenant, claim.receiver, False)
            return Outcome.AGAIN, failure.kind
        except Exception:
            logger.exception("webhook %s could not be sent", claim.id)
            return Outcome.AGAIN, "error"
        self._room.note(tenant, claim.receiver, status < 500 and status != TOO_MANY)
        if 200 <= status < 300:
            return Outcome.DELIVERED, str(status)
        return Outcome.FAILED if status == GONE else Outcome.AGAIN, str(status)

    async def _post(self, tenant: str, claim: Claim, body: bytes, secrets: list[WebhookSecret]) -> int:
        at = claim.at // 1000
        if len(body) > BYTES_TO_SIGN_HERE:
            signature = await asyncio.to_thread(signatures, secrets, claim.id, at, body)
        else:
            signature = signatures(secrets, claim.id, at, body)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "webhook-id": claim.id,
            "webhook-timestamp": str(at),
            "webhook-signature": signature,
        }
        return await self._outbound.post(claim.url, headers, body, self._settings.webhook_seconds, tenant)

    async def _settle(self, endpoint: str, claim: Claim, outcome: Outcome, result: str, began: float) -> None:
        """Says how it ended, for as long as the claim lasts."""
        duration = round((time.monotonic() - began) * 1000)
        delay = delay_ms(claim.tries + 1, self._settings.webhook_retry_seconds)
        while True:
            try:
                await self._deliveries.settle(endpoint, claim, outcome, result, duration, delay)
            except (*OUTAGES, Unavailable):
                if (time.monotonic() - began) * 1000 > self._lease_ms:
                    raise
                await asyncio.sleep(SECONDS_BETWEEN_REPEATS)
            else:
                return

    async def _give_back(self, task: "asyncio.Task[None]", endpoint: str, claim: Claim) -> None:
        await end(task)
        await self._release(endpoint, claim, 0)

    async def _release(self, endpoint: str, claim: Claim, delay_ms: int) -> None:
        try:
            await self._deliveries.release(endpoint, claim, delay_ms)
        except (*OUTAGES, RedisError, Unavailable) as error:
            logger.debug("webhook %s waits for its claim to end: %s", claim.id, error)


def delay_ms(failures: int, unit: float, uniform: Callable[[float, float], float] = random.uniform) -> int:
    """How long to wait after so many failed tries: twice a unit, then 6 units and twice as long each time, up to 1440.
    Of these between half and all, so that what failed together does not come again together.

    Args:
        failures: at least 1.
        unit: in s.
        uniform: gives a random number between two.
    """
    if failures <= QUICK_RETRIES:
        return round(unit * 1000)
    doublings = min(failures - QUICK_RETRIES - 1, 20)
    longest = min(FIRST_BACKOFF * 2**doublings, LONGEST_BACKOFF) * unit * 1000
    return round(uniform(longest / 2, longest))
