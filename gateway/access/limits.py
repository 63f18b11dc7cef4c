"""How many requests there may be: of each key, to each endpoint, for each operation; per 10 s, and at once.

The counting is the store's (functions/limits.lua), in the call that the operation makes there anyway. What is known
here is how many requests of each kind this process has under way. It says so with each, and, while there are many, now
and then; what a process said does not outlive it for long.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from redis.exceptions import ResponseError

from ..engine import keys
from ..engine.batching import Batcher
from ..engine.tasks import end
from ..errors import StartupError, TooManyRequests, Unavailable
from .keys import Key

SECONDS_BETWEEN_REPORTS = 1.0
SECONDS_BETWEEN_LOOKS = 0.2
MANY = 16
"""A process tells of requests that go on when they are more than this part of what there may be."""


class Limit(NamedTuple):
    """Requests per period, requests at once, and what each worker that is ready adds to the first; 0: no limit."""

    requests: int
    at_once: int = 0
    per_worker: int = 0


# https://docs.runpod.io/serverless/endpoints/operations; the third number is ours: RunPod says that there is one.
LIMITS = {
    "run": Limit(1000, 200, 50),
    "runsync": Limit(2000, 400, 100),
    "status": Limit(2000, 400, 100),
    "stream": Limit(2000, 400, 100),
    "openai": Limit(2000, 400, 100),
    "cancel": Limit(100, 20, 5),
    "purge-queue": Limit(2),
    "requests": Limit(10, 2),
    "queue-add": Limit(0),
    "queue-add-batch": Limit(0),
    "queue-get": Limit(0),
}

_ENTRY = re.compile(
    r"(?P<operation>[a-z-]+)=(?P<requests>\d{1,9})(?:/(?P<at_once>\d{1,9})(?:/(?P<per_worker>\d{1,9}))?)?"
)


def limits_of(entries: Iterable[str]) -> dict[str, Limit]:
    """The limits of a server.

    Args:
        entries: `OPERATION=REQUESTS/AT_ONCE/PER_WORKER` in the place of the usual ones, the last two as they are when
            left out; or `off` for none at all.

    Raises:
        StartupError: one that makes no sense.
    """
    found = dict(LIMITS)
    for entry in entries:
        if entry == "off":
            return {}
        parts = _ENTRY.fullmatch(entry)
        usual = LIMITS.get(parts["operation"]) if parts else None
        if parts is None or usual is None:
            raise StartupError(
                f"rate_limits (RUNLANE_RATE_LIMITS): {entry!r} is not OPERATION=REQUESTS/AT_ONCE/PER_WORKER "
                f"with one of {', '.join(LIMITS)}, nor off"
            )
        given = [int(parts[name] or getattr(usual, name)) for name in Limit._fields]
        found[parts["operation"]] = Limit(*given)
    return found


class Counter:
    """Requests of a key to an endpoint for an operation, as far as this process has them under way."""

    __slots__ = ("endpoint", "limit", "name", "number", "process", "said", "said_at")

    def __init__(self, endpoint: str, name: str, limit: Limit, process: str) -> None:
        self.endpoint = endpoint
        self.name = name
        self.limit = limit
        self.process = process
        self.number = 0
        self.said = 0
        self.said_at = 0.0

    def leave(self) -> None:
        """A request has ended."""
        self.number -= 1

    def tell(self) -> str:
        """The limit as the store's functions take it, with how many requests there are."""
        self.said, self.said_at = self.number, time.monotonic()
        requests, at_once, per_worker = self.limit
        return f"{self.name} {requests} {at_once} {per_worker} {self.process} {self.number}"

    @property
    def is_over(self) -> bool:
        """Whether there are more than there may be, but for what the workers add."""
        return 0 < self.limit.at_once < self.number

    @property
    def is_heavy(self) -> bool:
        """Whether so many go on that other processes have to know."""
        return self.limit.at_once > 0 and self.number * MANY >= self.limit.at_once

    @property
    def has_eased(self) -> bool:
        """Whether so many fewer go on than was said that others are kept out for nothing."""
        return self.limit.at_once > 0 and (self.said - self.number) * MANY >= self.limit.at_once


class Limits:
    """The limits of one gateway process."""

    def __init__(self, limits: dict[str, Limit], batcher: Batcher, process: str) -> None:
        self._limits = limits
        self._batcher = batcher
        self._process = process
        self._counters: dict[tuple[str, str, str], Counter] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to tell of what goes on."""
        if self._limits:
            self._task = asyncio.get_running_loop().create_task(self._tell())

    async def stop(self) -> None:
        """Ends that."""
        if self._task is not None:
            await end(self._task)

    def enter(self, key: Key, endpoint: str, operation: str) -> Counter | None:
        """A request begins; the counter's `leave` has to follow. None when there is no limit to it."""
        limit = self._limits.get(operation)
        if limit is None or (not limit.requests and not limit.at_once and key.terms.rate is None):
            return None
        counter = self._counters.get((key.id, endpoint, operation))
        if counter is None:
            if key.terms.rate is not None:
                limit = limit._replace(requests=key.terms.rate, per_worker=0)
            counter = Counter(endpoint, f"{key.id}:{operation}", limit, self._process)
            self._counters[key.id, endpoint, operation] = counter
        counter.number += 1
        return counter

    async def check(self, counter: Counter) -> None:
        """Keeps a request out whose body need not be read, since there are too many.

        Raises:
            TooManyRequests: there are, also with what the workers add to the limit.
        """
        await self._batcher.call(keys.base(counter.endpoint), "at_once", counter.tell())

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            with contextlib.suppress(Unavailable, ResponseError, TooManyRequests):
                await self._tell_once(time.monotonic())

    async def _tell_once(self, now: float) -> None:
        told: dict[str, list[str]] = {}
        for place, counter in list(self._counters.items()):
            silent = now - counter.said_at >= SECONDS_BETWEEN_REPORTS
            if counter.has_eased or (silent and counter.is_heavy):
                told.setdefault(counter.endpoint, []).append(counter.tell())
            elif silent and counter.number == 0:
                del self._counters[place]
        await asyncio.gather(*(self._batcher.call(keys.base(name), "at_once", *texts) for name, texts in told.items()))
