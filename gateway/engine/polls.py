"""Workers that come over HTTP: what waits here for them, and what is sent to them meanwhile.

A poll is registered in the store, which sends a job straight to the process that holds the poll, in the same step that
queues it. Nothing asks the store again and again: thousands of parked workers cost it nothing until a job comes.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from redis.exceptions import ResponseError

from ..errors import NotFound, Unavailable
from . import keys
from .batching import Batcher
from .tasks import Background
from .wakeups import Header, Wakeups

logger = logging.getLogger(__name__)

SECONDS_FOR_LAST_MESSAGE = 1.0
"""A job that was sent to a poll just before its end is awaited for so long."""

SECONDS_TO_PUT_BACK = 30.0

HungUp = asyncio.Future[None]
"""Done when nobody waits for the answer any more."""


class Handed(NamedTuple):
    """A job that was begun for a worker. `input` and `request` (the other fields of the client's request, b"" for none)
    are JSON."""

    job: str
    attempt: int
    input: bytes
    request: bytes


class Stop(NamedTuple):
    """An attempt that a worker is to stop, and the state that its job is in."""

    job: str
    attempt: int
    state: str


class _Poll:
    """One that is parked. quits: the worker is about to end. missed: messages may have been."""

    def __init__(self) -> None:
        self.header: Header | None = None
        self.payload = b""
        self.quits = False
        self.missed = False
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None

    def look_again(self) -> None:
        self.missed = True
        self.wake()

    def quit(self) -> None:
        self.quits = True
        self.wake()

    def wake(self, *_: object) -> None:
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float, hung_up: HungUp) -> None:
        """Returns when it was woken, the time is over, or the worker has hung up."""
        if not self._woken and not hung_up.done():
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(max(0.0, seconds), self.wake)
            hung_up.add_done_callback(self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                hung_up.remove_done_callback(self.wake)
        self._woken = False


class Polls:
    """The polls of all workers that come to this process."""

    def __init__(self, batcher: Batcher, wakeups: Wakeups, background: Background) -> None:
        self._batcher = batcher
        self._background = background
        self._wakeups = wakeups
        self._numbers = itertools.count(1)
        self._for_jobs: dict[str, _Poll] = {}
        self._of_workers: dict[tuple[str, str], set[_Poll]] = {}
        self._ending = False
        wakeups.attach(self)

    async def take(
        self,
        endpoint: str,
        worker: str,
        most: int,
        seconds: float,
        alive_ms: int,
        hung_up: HungUp,
        has_none: bool = False,
        state: str = "",
        queues: str = "",
    ) -> list[Handed]:
        """Jobs for a worker, begun for it; waits for one when there are none.

        Args:
            endpoint: the endpoint's id.
            worker: the worker's id.
            most: how many jobs it can take, at least 1.
            seconds: how long to wait.
            alive_ms: for how long the worker counts as alive after the wait.
            hung_up: done when nobody waits for the answer any more.
            has_none: the worker has no job, so any that was begun for it is lost.
            state: what it is, if that is not said elsewhere.
            queues: the engine's names of those that it takes jobs of, separated by spaces; empty for all.

        Raises:
            NotFound: no such endpoint.
            Unavailable: the store cannot be reached.
        """
        number, deadline = f"{self._wakeups.process}.{next(self._numbers)}", time.monotonic() + seconds
        parking = (worker, most, self._wakeups.process, number, alive_ms, round(seconds * 1000))
        try:
            with self._parked(endpoint, worker, number) as poll:
                jobs = await self._park(endpoint, poll, *parking, "1" if has_none else "", state, "", queues)
                while not jobs and not self._is_over(poll, deadline, hung_up):
                    await poll.wait(deadline - time.monotonic(), hung_up)
                    if poll.missed:
                        jobs = await self._park(endpoint, poll, *parking, "", state, "1", queues)
                if not jobs and poll.header is None:
                    await self._withdraw(endpoint, worker, number, alive_ms, poll)
            if poll.header is not None:
                jobs = [_sent(poll.header, poll.payload)]
            whole = [await self._whole(endpoint, job) for job in jobs]
        except BaseException:
            # Whatever was begun for this poll will not arrive.
            self._background.begin(self._until_done(endpoint, "unpark", worker, number, alive_ms, "1"))
            raise
        found = [job for job in whole if job is not None]
        if poll.quits:
            self.refuse(endpoint, [(job.job, job.attempt) for job in found])
            return []
        return found

    def refuse(self, endpoint: str, attempts: list[tuple[str, int]]) -> None:
        """Puts jobs back, soon, that never reached their worker; that was no try."""
        for attempt in attempts:
            self._background.begin(self._until_done(endpoint, "refuse", *attempt))

    async def stops(self, endpoint: str, worker: str, seconds: float, hung_up: HungUp) -> list[Stop]:
        """What the worker is to stop and was not told; waits for something when there is nothing.

        Raises:
            Unavailable: the store cannot be reached.
        """
        deadline = time.monotonic() + seconds
        with self._parked(endpoint, worker) as poll:
            poll.missed = True
            while True:
                await self._wakeups.subscribe(endpoint)
                # Once is enough, and more would take the place of a newer poll.
                process = self._wakeups.process if poll.missed else ""
                poll.missed, is_over = False, self._is_over(poll, deadline, hung_up)
                found = await self._batcher.call(keys.base(endpoint), "stops", worker, process)
                if isinstance(found, int):
                    asyncio.get_running_loop().call_later(found / 1000, poll.quit)
                    found = []
                if found or is_over:
                    rows = zip(found[::3], found[1::3], found[2::3], strict=True)
                    return [Stop(job.decode(), attempt, state.decode()) for job, attempt, state in rows]
                await poll.wait(deadline - time.monotonic(), hung_up)
                if hung_up.done():
                    return []  # what came meanwhile is for the next poll

    def receive(self, endpoint: str, header: Header, payload: bytes) -> None:
        """Of `ForWorkers`."""
        if header.kind != "job":
            for poll in self._of_workers.get((endpoint, header.worker or ""), ()):
                if header.kind == "quit":
                    poll.quit()
                elif header.kind == "look":
                    poll.look_again()
                else:
                    poll.wake()
            return
        waiting = self._for_jobs.get(header.poll)
        if waiting is None or waiting.header is not None:
            self.refuse(endpoint, [(header.job, header.attempt)])
        else:
            waiting.header, waiting.payload = header, payload
            waiting.wake()

    def look_again(self) -> None:
        """Of `ForWorkers`."""
        for polls in self._of_workers.values():
            for poll in polls:
                poll.look_again()

    def end(self) -> None:
        """Of `ForWorkers`."""
        self._ending = True
        for polls in self._of_workers.values():
            for poll in polls:
                poll.wake()

    @contextmanager
    def _parked(self, endpoint: str, worker: str, number: str = "") -> Iterator[_Poll]:
        """`number`: of a poll for jobs."""
        poll, place = _Poll(), (endpoint, worker)
        self._of_workers.setdefault(place, set()).add(poll)
        if number:
            self._for_jobs[number] = poll
        try:
            yield poll
        finally:
            self._for_jobs.pop(number, None)
            rest = self._of_workers[place]
            rest.discard(poll)
            if not rest:
                del self._of_workers[place]

    def _is_over(self, poll: _Poll, deadline: float, hung_up: HungUp) -> bool:
        is_answered = poll.header is not None or poll.quits
        return is_answered or self._ending or hung_up.done() or time.monotonic() >= deadline

    async def _park(self, endpoint: str, poll: _Poll, *arguments: str | int) -> list[Handed | tuple[str, int]]:
        poll.missed = False
        await self._wakeups.subscribe(endpoint)
        try:
            rows = await self._batcher.call(keys.base(endpoint), "park", *arguments)
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                raise NotFound(f"no endpoint {keys.id_of(endpoint)}") from None
            raise
        if isinstance(rows, int):
            asyncio.get_running_loop().call_later(rows / 1000, poll.quit)
            return []
        if rows:
            poll.header = None  # what it brought is among them, or is over
        return [
            Handed(job.decode(), attempt, given, request) if given is not None else (job.decode(), attempt)
            for job, attempt, _, given, request in rows
        ]

    async def _withdraw(self, endpoint: str, worker: str, number: str, alive_ms: int, poll: _Poll) -> None:
        was_sent = await self._batcher.call(keys.base(endpoint), "unpark", worker, number, alive_ms, "")
        if was_sent and poll.header is None:
            await poll.wait(SECONDS_FOR_LAST_MESSAGE, asyncio.get_running_loop().create_future())

    async def _whole(self, endpoint: str, job: Handed | tuple[str, int]) -> Handed | None:
        """The job, fetched when it was too large to be sent; None when it is another's meanwhile, or over."""
        if isinstance(job, Handed):
            return job
        given, request = await self._batcher.call(keys.base(endpoint), "fetch", *job)
        return None if given == b"STALE" else Handed(*job, given, request)

    async def _until_done(self, endpoint: str, function: str, *arguments: str | int) -> None:
        """Calls a function that puts something back, until the store answers; but not for ever."""
        deadline = time.monotonic() + SECONDS_TO_PUT_BACK
        while True:
            try:
                await self._batcher.call(keys.base(endpoint), function, *arguments)
            except Unavailable:
                if time.monotonic() < deadline:
                    await asyncio.sleep(0.2)
                    continue
                logger.warning("endpoint %s: what did not reach a worker goes back when its lease ends", endpoint)
            except ResponseError as error:
                logger.warning("endpoint %s: what did not reach a worker could not be put back: %s", endpoint, error)
            return


def _sent(header: Header, payload: bytes) -> Handed | tuple[str, int]:
    if header.size < 0:
        return header.job, header.attempt
    return Handed(header.job, header.attempt, payload[header.size :], payload[: header.size])
