"""The link to a store that the handler's process reaches directly: Redis or Valkey, alone or a cluster."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from ..outcomes import Limits
from . import (
    PROMPT_BYTES,
    Attempt,
    Begin,
    HeldAttempts,
    LostReplyError,
    Register,
    Registered,
    Report,
    TakenJob,
)
from .store import Store, is_current

# An offer to take jobs is made anew after so long, should the store have forgotten it.
OFFER_SECONDS = 1.0

AT_A_TIME = 16

# Of a job that the store sends to a worker which it has forgotten meanwhile.
NO_EPOCH = "0"


class _Inbox:
    """Jobs that the store sent, and what the two know of each other.

    received: jobs given since the epoch began. offered: how many more the store may send. astray: some may be lost.
    """

    def __init__(self) -> None:
        self.jobs: deque[TakenJob] = deque()
        self.received = 0
        self.offered = 0
        self.astray = True
        self._epoch = ""
        self._offered_at = -OFFER_SECONDS
        self._begin: Begin | None = None
        self._capacity: Callable[[], int] = lambda: 0
        self._enough = 0
        self._changed = asyncio.Event()

    def put(self, message: bytes) -> None:
        """A job came. While someone waits, one that is complete begins at once, before any other turn of the loop."""
        head, _, rest = message.partition(b"\n")
        epoch, job, attempt, _, size = head.decode().split(" ")
        if epoch != self._epoch:  # given back since
            if epoch == NO_EPOCH:
                self.mark_astray()
            return
        self.received += 1
        self.offered -= 1
        split = int(size)
        attempt_of = Attempt(job, int(attempt))
        if split < 0:
            self.jobs.append(TakenJob(attempt_of, None, b""))
        elif self._begin is None:
            self.jobs.append(TakenJob(attempt_of, rest[split:], rest[:split]))
        else:
            self._begin(TakenJob(attempt_of, rest[split:], rest[:split]))
        if self.jobs or self.offered < self._enough or self._capacity() <= 0:
            self._changed.set()

    def put_all(self, jobs: list[TakenJob], room: int, before: int) -> None:
        """The reply to an offer to take as many jobs as there was room for when `before` had been received: messages
        that came before this reply used the offer up."""
        self.received += len(jobs)
        self.offered = room - (self.received - before)
        self._offered_at = time.monotonic()
        self.jobs.extend(jobs)

    def has_offer_for(self, room: int) -> bool:
        """Whether the store may send about as much as there is room for, so that it need not be told anew."""
        is_fresh = time.monotonic() - self._offered_at < OFFER_SECONDS
        return is_fresh and _enough_for(room) <= self.offered <= room

    def take_all(self) -> list[TakenJob]:
        jobs = list(self.jobs)
        self.jobs.clear()
        return jobs

    def begin_epoch(self, epoch: int) -> None:
        self.jobs.clear()
        self._epoch, self.received, self.offered, self.astray = str(epoch), 0, 0, False

    def mark_astray(self) -> None:
        self.astray = True
        self._changed.set()

    def look_again(self) -> None:
        self._changed.set()

    def begin_look(self) -> None:
        """What changes from now on ends `wait`, also when that begins later."""
        self._changed.clear()

    async def wait(self, room: int, capacity: Callable[[], int], begin: Begin) -> None:
        """Waits until there is more to do than to begin jobs: an offer that is used up or to be withdrawn, a job to be
        fetched."""
        if self.jobs or self.astray:
            return
        self._begin, self._capacity, self._enough = begin, capacity, _enough_for(room)
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._begin = None


def _enough_for(room: int) -> int:
    return max(1, (room + 1) // 2)


def _taken(job: bytes, number: int, _timeout: int, given: bytes | None, request: bytes) -> TakenJob:
    return TakenJob(Attempt(job.decode(), int(number)), given, request)


class _Asked(NamedTuple):
    """A call for jobs: for so many more than had been received before, those on their way among them.

    is_part: there was room for more.
    """

    reply: asyncio.Task[Any]
    room: int
    before: int
    is_part: bool


class RedisLink:
    """See `Link`."""

    def __init__(self, register: Register) -> None:
        self._inbox = _Inbox()
        self._subscribed = asyncio.Event()
        self._more_wait = False
        # The worker tells of outages; twice would be once too often.
        self._store = Store(register, self._inbox.mark_astray, outage_level=logging.DEBUG)

    @property
    def worker(self) -> str:
        return self._store.registered.worker

    @property
    def limits(self) -> Limits:
        return self._store.registered.limits

    async def open(self, registered: Registered) -> None:
        await self._store.open(registered)

    async def receive(self) -> None:
        await self._store.receive("worker", self._inbox.put, self._on_subscribed)

    async def take(self, capacity: Callable[[], int], held: HeldAttempts, begin: Begin) -> None:
        inbox = self._inbox
        inbox.begin_look()
        if not self._subscribed.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._subscribed.wait(), OFFER_SECONDS)
            self._subscribed.set()  # without it, jobs are taken as they are asked for
        if inbox.astray:
            await self.give_back(held)
        if not inbox.jobs:
            room = max(0, capacity())
            if not room and not inbox.offered:
                return
            came = False if inbox.has_offer_for(room) else await self._offer(capacity, begin)
            if room and not came:
                await inbox.wait(room, capacity, begin)
        await self._begin_all(inbox.take_all(), begin)
        if inbox.astray:
            await self.give_back(held)

    def look_again(self) -> None:
        self._inbox.look_again()

    async def give_back(self, held: HeldAttempts) -> None:
        pairs = [value for attempt in held() for value in attempt]
        self._inbox.begin_epoch(await self._store.call("join", self.worker, *pairs))

    def sends_at_once(self, size: int) -> bool:
        return size <= PROMPT_BYTES

    def emit(self, attempt: Attempt, first: int, chunks: list[bytes]) -> Report:
        return self._store.report("emit", attempt, first, *chunks)

    def progress(self, attempt: Attempt, value: bytes) -> Report:
        return self._store.report("progress", attempt, value, repeat=False)

    def finish(self, attempt: Attempt, state: str, field: str, value: bytes) -> Report:
        return self._store.report("finish", attempt, state, field, value)

    async def close(self) -> None:
        await self._store.close()

    def _on_subscribed(self) -> None:
        self._inbox.mark_astray()  # what was sent before may be lost
        self._subscribed.set()

    async def _begin_all(self, jobs: list[TakenJob], begin: Begin) -> None:
        """Each begins as soon as it is here as a whole."""
        large = []
        for job in jobs:
            if job.input is None:
                large.append(self._fetch(job.attempt, begin))
            else:
                begin(job)
        failures = [failure for failure in await asyncio.gather(*large, return_exceptions=True) if failure is not None]
        if failures:
            self._inbox.mark_astray()  # what was not fetched has not begun
            raise failures[0]

    async def _fetch(self, attempt: Attempt, begin: Begin) -> None:
        reply = await self._store.call("fetch", attempt.job, attempt.number)
        if is_current(attempt, reply):
            begin(TakenJob(attempt, reply[0], reply[1]))

    async def _offer(self, capacity: Callable[[], int], begin: Begin) -> bool:
        """Asks for jobs, and begins those that come meanwhile; whether there were any. What is left of the room is an
        offer to the store, which sends what comes.

        While more jobs wait than there is room for, they come a few at a time, and as long as that goes on: some run
        while the store sees to the next.
        """
        asked: deque[_Asked] = deque()
        have_come = False
        self._ask(max(0, capacity()), asked)
        try:
            while asked:
                have_come |= await self._take_reply(asked[0], begin)
                last = asked.popleft()
                if self._inbox.astray or self._inbox.jobs:
                    continue
                while self._more_wait and len(asked) * AT_A_TIME < capacity():
                    self._ask(capacity(), asked)
                if last.is_part and not asked and capacity() > 0:
                    self._ask(capacity(), asked)  # no more wait: all of the room is offered
        except BaseException:
            for ask in asked:
                ask.reply.cancel()
            self._inbox.mark_astray()
            raise
        return have_come

    def _ask(self, room: int, asked: deque[_Asked]) -> None:
        """Asks for as many jobs as there is room for, beside those that have been asked for, or for a few of them."""
        most = min(room, (len(asked) + 1) * AT_A_TIME) if self._more_wait else room
        before = self._inbox.received
        call = self._store.call("take", self.worker, most, before, self._store.registered.queues, repeat=False)
        asked.append(_Asked(asyncio.create_task(call), most, before, most < room))

    async def _take_reply(self, asked: _Asked, begin: Begin) -> bool:
        try:
            rows: list[Any] = await asked.reply
        except LostReplyError:
            self._inbox.mark_astray()  # the store may have given jobs that never came
            self._more_wait = False
            return False
        self._inbox.put_all([_taken(*row) for row in rows], asked.room, asked.before)
        self._more_wait = bool(rows) and self._inbox.offered <= 0
        jobs = self._inbox.take_all()  # messages among them, which have used a part of the offer up
        await self._begin_all(jobs, begin)
        return bool(jobs)
