"""Deliveries of webhooks, as the store keeps them; see functions/webhooks.lua."""

import enum
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from ..errors import Conflict, NotFound
from . import keys
from .batching import Argument, Batcher
from .engine import Limit

MOST_LOOKED_AT = 1000


class DeliveryState(enum.StrEnum):
    """The states of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Outcome(enum.StrEnum):
    """How a try ended."""

    DELIVERED = "delivered"
    AGAIN = "again"
    FAILED = "failed"


class Taken(NamedTuple):
    """A receiver that may have fewer deliveries than others, how many, and whether it is in trouble."""

    receiver: str
    most: int
    in_trouble: bool


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """A delivery that this process is to try. `number`: of the claim; `tries`: those that failed; `size`: of the
    job, in bytes, about; `at`: now, in ms since the epoch by the store's clock."""

    id: str
    job: str
    url: str
    receiver: str
    number: int
    tries: int
    size: int
    at: int


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """A try. `at`: when it began; `result`: the HTTP status, or in one word what went wrong; `duration`: in ms."""

    at: int
    result: str
    duration: int


class Delivery(msgspec.Struct, frozen=True):
    """An entry of the log; times are in ms since the epoch. `attempts`: the last few."""

    id: str
    job: str
    url: str
    state: DeliveryState
    created: int
    due: int | None
    attempts: list[Attempt]


class Logged(msgspec.Struct, frozen=True):
    """A page of the log; `cursor` continues it, None at its end."""

    deliveries: list[Delivery]
    cursor: str | None


_decode_attempts = msgspec.json.Decoder(list[Attempt]).decode


class Deliveries:
    """The operations on deliveries."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def claim(
        self, endpoint: str, lease_ms: int, most: int, each: int, failing: int, taken: Iterable[Taken]
    ) -> tuple[list[Claim], bool]:
        """Takes deliveries that are due.

        Args:
            endpoint: its name.
            lease_ms: after so long, others may have them.
            most: how many there may be.
            each: how many there may be for one receiver.
            failing: how many there may be for all that are in trouble.
            taken: receivers that may have fewer than `each`.

        Returns:
            The claims, and whether other deliveries are due.
        """
        fewer = (part for one in taken for part in (one.receiver, one.most, int(one.in_trouble)))
        left, rows = await self._call(endpoint, "claim_webhooks", lease_ms, most, each, failing, *fewer)
        return [msgspec.convert([_text(value) for value in row], Claim) for row in rows], bool(left)

    async def settle(
        self, endpoint: str, claim: Claim, outcome: Outcome, result: str, duration_ms: int, delay_ms: int
    ) -> str:
        """Says how a try ended; `result` as in `Attempt`; `delay_ms`: until the next one. Returns the delivery's state,
        "STALE" when the word does not count."""
        reply = await self._call(
            endpoint, "settle_webhook", claim.id, claim.number, outcome, duration_ms, result, delay_ms
        )
        return str(reply.decode())

    async def release(self, endpoint: str, claim: Claim, delay_ms: int) -> None:
        """Gives up a claim that was not tried; others may have the delivery after `delay_ms`."""
        await self._call(endpoint, "release_webhook", claim.id, claim.number, delay_ms)

    async def get(self, endpoint: str, id: str, limit: Limit = "") -> Delivery:
        """One delivery.

        Raises:
            NotFound: no such delivery in this endpoint.
        """
        found = _delivery(id, await self._call(endpoint, "webhook", id, limit=limit))
        if found is None:
            raise NotFound(f"no webhook {id}")
        return found

    async def list(
        self, endpoint: str, count: int, cursor: str | None, state: DeliveryState | None, limit: Limit = ""
    ) -> Logged:
        """Up to `count` deliveries, the one that was scheduled last first. With a state, looks at no more than a
        thousand: a page can be short, or empty, and still have a cursor.

        Raises:
            NotFound: no such endpoint.
        """
        bound, _, seen = (cursor or "+inf.0").rpartition(".")
        most = count if state is None else max(count, MOST_LOOKED_AT)
        reply = await self._call(endpoint, "webhooks", bound, seen, most, limit=limit)
        if reply is None:
            raise NotFound(f"no endpoint {keys.id_of(endpoint)}")
        found: list[Delivery] = []
        for id, at, row in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
            score = at.decode()
            seen = str(int(seen) + 1) if score == bound else "1"
            bound = score
            delivery = _delivery(id.decode(), row)
            if delivery is not None and state in (None, delivery.state):
                found.append(delivery)
            if len(found) == count:
                break
        is_more = len(reply) == 3 * most or len(found) == count
        return Logged(found, f"{bound}.{seen}" if is_more else None)

    async def retry(self, endpoint: str, id: str, limit: Limit = "") -> None:
        """Has a delivery tried now, whatever its state.

        Raises:
            NotFound: no such delivery in this endpoint.
            Conflict: its job is kept no longer as it was at its end.
        """
        reply = await self._call(endpoint, "retry_webhook", id, limit=limit)
        if reply == b"GONE":
            raise NotFound(f"no webhook {id}")
        if reply != b"OK":
            raise Conflict("the job is no longer kept as it was at its end, so there is nothing to deliver")

    async def _call(self, endpoint: str, function: str, *arguments: Argument, limit: Limit = "") -> Any:
        if limit:
            function, arguments = "limited", (limit, function, *arguments)
        return await self._batcher.call(keys.base(endpoint), function, *arguments)


def _delivery(id: str, row: list[Any]) -> Delivery | None:
    """None when the delivery's time is over."""
    job, url, state, created, due, attempts = row
    if job is None:
        return None
    return Delivery(
        id,
        job.decode(),
        url.decode(),
        DeliveryState(state.decode()),
        int(created),
        int(due) if due else None,
        _decode_attempts(attempts or b"[]"),
    )


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
