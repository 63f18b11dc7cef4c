"""The worker: takes jobs, has them run by the handler's process, delivers what comes of them, renews, drains.

It never imports the author's code, so that a handler that holds the interpreter lock, crashes or is killed disturbs
neither the signs of life nor the delivery of results. One process runs the handler at a time; when it ends, what it was
running is given up and another one takes its place.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from .delivery import Delivery
from .frames import Kind
from .held import Held
from .links import Attempt, Backoff, Link, LinkError, RefusedError, TakenJob
from .outcomes import Outcome
from .process import HandlerProcess
from .settings import Settings, SettingsError

if TYPE_CHECKING:
    from types import FrameType

logger = logging.getLogger("runlane.worker")

# So many processes in a row that end unasked, without a job done between, count as a crash loop.
CRASH_LOOP = 3

# Stops that are remembered for jobs that this worker does not have, or not yet.
EARLY_STOPS = 100

# The taker's call returns within about a second; the rest is for a slow store.
TAKER_SECONDS = 3.0
RENEWAL_SECONDS = 3.0


class Worker:
    """One worker, from its start to its end."""

    def __init__(self, settings: Settings, link: Link, path: str, arguments: list[str]) -> None:
        self._settings = settings
        self._link = link
        self._path = path
        self._arguments = arguments
        self._held: dict[int, Held] = {}
        self._early_stops: dict[Attempt, str] = {}
        self._number = 0
        self._process: HandlerProcess | None = None
        self._ready = False
        self._was_ready = False
        self._loaded_once = False
        self._broken = ""
        self._failures = 0
        self._concurrency = 1
        self._joined = False
        self._refreshing = False
        self._draining = False
        self._leaving = False
        self._renewing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._status = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self._free = asyncio.Event()
        self._idle = asyncio.Event()
        self._renew = asyncio.Event()

    async def run(self) -> int:
        """Works until a signal or a failure ends it; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        keeper = self._begin_task(self._keep_process())
        online = self._begin_task(self._work())
        await self._ending.wait()
        await self._drain(online, keeper)
        return self._status

    # -- jobs ---------------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> str:
        if self._failures and (not self._ready or self._failures >= CRASH_LOOP):
            return "unhealthy"
        return "ready" if self._ready else "initializing"

    def _running(self) -> list[Held]:
        return [held for held in self._held.values() if not held.is_run]

    def _capacity(self) -> int:
        if self._draining or self._refreshing or not self._ready:
            return 0
        return max(0, self._concurrency - len(self._running()))

    async def _work(self) -> None:
        await self._link.join()
        self._joined = True
        self._tell_settings()
        self._renewing = self._begin_task(self._keep_renewing())
        self._listening = self._begin_task(self._link.listen(self._on_stop, self._renew.set))
        await self._keep_taking()

    async def _keep_taking(self) -> None:
        while not self._draining:
            self._free.clear()
            await self._take()
            if self._capacity() == 0:
                await self._free.wait()
        await self._link.decline(self._held_jobs)

    def _held_jobs(self) -> list[str]:
        return [held.attempt.job for held in self._held.values()]

    async def _take(self) -> None:
        try:
            await self._link.take(self._capacity, self._held_jobs, self._begin)
        except LinkError as error:
            logger.error("the store hands out no jobs: %s", error)  # noqa: TRY400
            await asyncio.sleep(1)

    def _begin(self, job: TakenJob) -> None:
        if (state := self._early_stops.pop(job.attempt, None)) is not None:
            logger.info("job %s is %s before it begins", job.attempt, state)
            return
        self._number += 1
        number = self._number

        def credit(size: int) -> None:
            if self._process is not None:
                self._process.send(Kind.CREDIT, number, str(size).encode())

        fields = {
            "id": job.attempt.job,
            "attempt": job.attempt.number,
            "input": orjson.Fragment(job.input or b"null"),
            "request": orjson.Fragment(job.request or b"null"),
        }
        held = Held(number, job.attempt, Delivery(self._link, job.attempt, credit), orjson.dumps(fields))
        self._held[number] = held
        logger.info("job %s begins", job.attempt)
        self._tell_jobs()

    def _tell_jobs(self) -> None:
        """Has the jobs run. One that came while the process was being replaced waits for the new one."""
        for held in self._running():
            if self._ready and self._process is not None and held.told is not None:
                self._process.send(Kind.RUN, held.number, held.told)
                held.told = None

    def _delivery_of(self, held: Held) -> Delivery:
        """The job's delivery, which begins when there is something to deliver."""
        if held.task is None:
            self._begin_delivery(held, self._deliver(held))
        return held.delivery

    def _begin_delivery(self, held: Held, delivering: Coroutine[Any, Any, None]) -> None:
        held.task = self._begin_task(delivering)
        held.task.add_done_callback(lambda _: self._settle(held))

    async def _deliver(self, held: Held) -> None:
        try:
            if not await held.delivery.run():
                self._stop(held, "LOST")
        except LinkError as error:
            logger.error("job %s: the store refuses what the handler says: %s", held.attempt, error)  # noqa: TRY400
            self._stop(held, "LOST")
            await self._link.lose(held.attempt, f"the store refused what the handler said: {error}")

    def _settle(self, held: Held) -> None:
        """Forgets the job when both its run and its delivery are over."""
        if held.is_run and (held.task is None or held.task.done()):
            self._held.pop(held.number, None)
            if not self._held:
                self._idle.set()

    def _ran(self, held: Held) -> None:
        """The job takes no room in the handler's process any more."""
        held.end_run()
        self._settle(held)
        self._free.set()
        self._refresh_when_idle()

    def _give_up(self, held: Held, reason: str) -> None:
        if held.task is not None:
            held.task.cancel()
        if not held.stopping:
            logger.warning("job %s is given up: %s", held.attempt, reason)
            self._begin_delivery(held, self._lose(held.attempt, reason))
        self._ran(held)

    async def _lose(self, attempt: Attempt, reason: str) -> None:
        try:
            await self._link.lose(attempt, reason)
        except LinkError as error:
            logger.error("job %s could not be given up: %s", attempt, error)  # noqa: TRY400

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _on_stop(self, attempt: Attempt, state: str) -> None:
        held = next((held for held in self._held.values() if held.attempt == attempt), None)
        if held is not None:
            self._stop(held, state)
            return
        # Told so before the job has begun here, or about one that is over.
        self._early_stops[attempt] = state
        if len(self._early_stops) > EARLY_STOPS:
            del self._early_stops[next(iter(self._early_stops))]

    def _stop(self, held: Held, state: str) -> None:
        """Ends the run of a job that is no longer this worker's."""
        if held.is_run or held.stopping:
            return
        logger.info("job %s is %s: its handler is stopped", held.attempt, state)
        held.stopping = True
        if held.task is not None and held.task is not asyncio.current_task():
            held.task.cancel()
        if held.told is not None:
            self._ran(held)
            return
        if self._process is not None:
            self._process.send(Kind.STOP, held.number)
        loop = asyncio.get_running_loop()
        held.timer = loop.call_later(self._settings.stop_grace_seconds, self._kill_for, held)

    def _kill_for(self, held: Held) -> None:
        if self._process is not None and not held.is_run:
            logger.info("job %s does not stop: the handler process is replaced", held.attempt)
            self._ready = False
            self._process.kill(f"the handler process was killed to stop another job, {held.attempt.job}")

    # -- the handler's process ----------------------------------------------------------------------------------------

    async def _keep_process(self) -> None:
        backoff = Backoff(0.5, 30.0)
        while not self._draining:
            process = self._process = await HandlerProcess.start(self._path, self._arguments, self._on_frame)
            logger.info("loading %s in process %d", self._path, process.pid)
            self._broken, self._was_ready, self._refreshing, self._concurrency = "", False, False, 1
            self._tell_settings()
            reason = await process.wait()
            asked = self._refreshing or process.was_killed or self._draining
            self._ready, self._process = False, None
            for held in self._running():
                if held.told is None or not self._was_ready:
                    self._give_up(held, reason)
            if self._draining:
                return
            if asked:
                continue
            if not self._was_ready and not self._loaded_once:
                self._fail(f"handler {self._path} failed to import: {self._broken or reason}")
                return
            self._failures += 1
            self._renew.set()
            if self._was_ready and self._failures < CRASH_LOOP:
                backoff.reset()
                logger.warning("%s; another one takes its place", reason)
            else:
                pause = backoff.next()
                logger.error("%s; the next try is in %.1f s", self._broken or reason, pause)
                await asyncio.sleep(pause)

    def _tell_settings(self) -> None:
        if self._joined and self._process is not None:
            limits = self._link.limits
            settings = {"output_limit": limits.output, "chunk_limit": limits.chunk, "worker": self._link.worker}
            self._process.send(Kind.SETTINGS, 0, orjson.dumps(settings))

    def _on_frame(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.READY:
            logger.info("%s is loaded", self._path)
            self._ready = self._was_ready = self._loaded_once = True
            self._renew.set()
            self._free.set()
            self._tell_jobs()
        elif kind is Kind.BROKEN:
            self._broken = payload.decode(errors="replace")
        elif kind is Kind.CONCURRENCY:
            logger.info("concurrency is now %d", number)
            self._concurrency = number
            self._renew.set()
            self._free.set()
            self._link.look_again()
        elif (held := self._held.get(number)) is not None and not held.is_run:
            self._on_job_frame(held, kind, payload)

    def _on_job_frame(self, held: Held, kind: Kind, payload: bytes) -> None:
        if kind is Kind.DONE:
            self._on_done(held, Outcome.decode(payload))
        elif kind is Kind.UNSTOPPABLE and held.stopping:
            self._kill_for(held)
        elif held.stopping:
            pass  # nothing that it says counts any more
        elif kind is Kind.CHUNK:
            self._delivery_of(held).add_chunk(payload)
        elif kind is Kind.PROGRESS:
            self._delivery_of(held).set_progress(payload)

    def _on_done(self, held: Held, outcome: Outcome) -> None:
        self._failures = 0
        if outcome.refresh:
            self._refreshing = True
            self._link.look_again()
        if not held.stopping:
            text = outcome.value.decode(errors="replace")[:200] if outcome.field == "error" else ""
            logger.info("job %s is %s%s", held.attempt, outcome.state, text and f": {text}")
            self._delivery_of(held).end_with(outcome)
        self._ran(held)

    def _refresh_when_idle(self) -> None:
        if self._refreshing and self._ready and self._process is not None and not self._running():
            logger.info("the handler process is replaced, as the handler wished")
            self._ready = False
            self._begin_task(self._process.end(self._settings.stop_grace_seconds))

    # -- signs of life, and the end -----------------------------------------------------------------------------------

    async def _keep_renewing(self) -> None:
        while not self._leaving:
            self._renew.clear()
            attempts = [held.attempt for held in self._held.values()]
            try:
                for attempt, state in await self._link.renew(self._concurrency, self._state, attempts):
                    self._on_stop(attempt, state)
            except LinkError as error:
                logger.error("the store takes no signs of life: %s", error)  # noqa: TRY400
            with suppress(TimeoutError):
                await asyncio.wait_for(self._renew.wait(), self._link.renewal_seconds)

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._watch(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RefusedError as error:
            self._fail(str(error))
        except Exception:
            logger.exception("the worker has a fault and ends")
            self._fail("")

    def _fail(self, reason: str) -> None:
        if reason and not self._status:
            logger.error(reason)
        self._status = 1
        self._hurry.set()
        self._ending.set()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._ending.is_set():
            logger.info("%s again: ending at once", number.name)
            self._hurry.set()
        else:
            logger.info("%s: taking no more jobs, %d in hand", number.name, len(self._held))
            self._ending.set()

    async def _drain(self, online: asyncio.Task[None], keeper: asyncio.Task[None]) -> None:
        """Lets what runs come to its end, stops the rest, gives it back."""
        self._draining = True
        self._free.set()
        self._link.look_again()
        if self._joined:
            # The call that waits for a job must end in order: what it may have got goes back.
            await asyncio.wait({online}, timeout=TAKER_SECONDS)
        online.cancel()
        await self._until_idle(self._settings.drain_seconds)
        await self._end_process()
        if self._process is None:
            keeper.cancel()
        await asyncio.wait({keeper}, timeout=self._settings.stop_grace_seconds + 2)
        self._leaving = True
        self._renew.set()
        if self._renewing is not None:
            # A sign of life after the farewell would bring the worker back.
            await asyncio.wait({self._renewing}, timeout=RENEWAL_SECONDS)
        if self._listening is not None:
            self._listening.cancel()
        if self._joined:
            await self._link.leave()
        for task in self._tasks:
            task.cancel()
        logger.info("left")

    async def _until_idle(self, seconds: float) -> None:
        self._idle.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._idle, self._hurry)]
        if self._held:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _end_process(self) -> None:
        grace = self._settings.stop_grace_seconds
        if not self._hurry.is_set():
            for held in self._running():
                self._stop(held, "given back")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._until_none_runs(), grace + 1)
        if self._process is None:
            return
        if self._ready and not self._running() and not self._hurry.is_set():
            await self._process.end(grace)
        else:
            self._process.kill("the worker ended")

    async def _until_none_runs(self) -> None:
        while self._running():
            self._free.clear()
            await self._free.wait()


def main(path: str, arguments: list[str]) -> int:
    """Runs a worker for the handler file at `path`, which gets `arguments`; returns the exit status.

    The environment says the rest: RUNLANE_URL, RUNLANE_ENDPOINT, RUNLANE_WORKER_KEY, RUNLANE_WORKER_ID,
    RUNLANE_DRAIN_SECONDS, RUNLANE_STOP_GRACE_SECONDS, RUNLANE_LOG_LEVEL. Status 0: it was told to end and did; 1: the
    handler cannot be loaded, or the gateway refuses the worker; 2: the environment or the path is wrong.
    """
    signal.signal(signal.SIGTERM, _exit_early)
    signal.signal(signal.SIGINT, _exit_early)
    level = os.environ.get("RUNLANE_LOG_LEVEL", "info").upper()
    if level not in logging.getLevelNamesMapping():
        return _complain(f"RUNLANE_LOG_LEVEL must be debug, info, warning or error, not {level.lower()!r}")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("runlane").setLevel(level)
    if not os.path.isfile(path):
        return _complain(f"there is no handler file {path}")
    try:
        settings = Settings.of(os.environ)
    except SettingsError as error:
        return _complain(str(error))
    from .links.redis import RedisLink
    from .links.registration import Registration

    return asyncio.run(Worker(settings, RedisLink(Registration(settings)), path, arguments).run())


def _exit_early(_number: int, _frame: "FrameType | None") -> None:
    sys.exit(0)


def _complain(text: str) -> int:
    print(f"runlane: {text}", file=sys.stderr)
    return 2
