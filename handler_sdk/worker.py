"""The worker's own process: registers, gives signs of life, stops, replaces the process that runs the handler, drains.

It never imports the author's code, so that a handler that holds the interpreter lock, crashes or is killed does not
disturb the signs of life. One process runs the handler at a time, and takes its jobs and delivers its results by itself
(`taker`); when it ends, what it was running is given up and another one takes its place.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from .frames import Kind, decode_attempt, encode_attempt, encode_registered
from .links import Attempt, Backoff, LinkError, Membership, RefusedError
from .output import OWN, Output
from .process import HandlerProcess, NoProgramError, Program
from .settings import Settings, SettingsError
from .starting import end_early_by_signals, set_up_logging
from .supervision import OF_HANDLERS, Supervision
from .telemetry import Telemetry

logger = logging.getLogger("runlane.worker")

# The last calls before the farewell are given up after so long.
RENEWAL_SECONDS = 3.0
CLEARING_SECONDS = 3.0


@dataclass
class Held:
    """A job in the handler's process, from its begin until all that is to be known of it is in the store.

    begun: False for one that is to be stopped and, as far as we have heard, has not begun: it may be on its way to the
    process, or over. stopping: the process was told to stop it. timer: of the end by force that follows.
    """

    attempt: Attempt
    begun: bool = True
    stopping: bool = False
    timer: asyncio.TimerHandle | None = None


Join = Callable[[Callable[[], None]], Awaitable[Membership]]
"""Makes the worker a member; it gets what to call when there may be another registration than before."""


Prepare = Callable[[], Awaitable[Program]]
"""Makes the program that the worker runs, however long it takes. Raises NoProgramError."""


class Worker:
    """One worker, from its start to its end.

    loaded: set when the program has been ready once.
    """

    _membership: Membership  # once it has joined
    _program: Program  # once it is prepared

    def __init__(
        self, settings: Settings, join: Join, prepare: Prepare, supervision: Supervision = OF_HANDLERS
    ) -> None:
        self.loaded = asyncio.Event()
        self._output = Output() if settings.ships_logs else None
        self._telemetry = Telemetry(self._output)
        self._settings = settings
        self._join = join
        self._prepare = prepare
        self._supervision = supervision
        self._pauses = Backoff(supervision.first_pause, supervision.longest_pause)
        self._held: dict[Attempt, Held] = {}
        self._given_back: list[Attempt] = []
        self._process: HandlerProcess | None = None
        self._ready = False
        self._ready_since: float | None = None
        self._broken = ""
        self._failures = 0
        self._concurrency = 1
        self._joined = False
        self._refreshing = False
        self._is_asked = False
        self._draining = False
        self._leaving = False
        self._status = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._clearing: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._overdue = asyncio.Event()
        self._hurry = asyncio.Event()
        self._drained = asyncio.Event()
        self._renew = asyncio.Event()

    async def run(self) -> int:
        """Works until `end` or a failure ends it; returns the exit status."""
        with OWN.told_to(self._output):
            keeper = self._begin_task(self._keep_program())
            online = self._begin_task(self._go_online())
            await self._ending.wait()
            await self._drain(online, keeper)
        return self._status

    def end(self, lets_all_end: bool = False) -> None:
        """Takes no more jobs. What runs has the time of the settings to come to its end, or all the time it needs when
        `lets_all_end`, until the next call."""
        if not lets_all_end:
            asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._overdue.set)
        self._ending.set()

    def hurry(self) -> None:
        """Ends at once."""
        self._hurry.set()
        self._ending.set()

    def on_signal(self, number: signal.Signals) -> None:
        """The first one is to end, the second to hurry."""
        if self._ending.is_set():
            logger.info("%s again: ending at once", number.name)
            self.hurry()
        else:
            logger.info("%s: taking no more jobs, %d in hand", number.name, len(self._held))
            self.end()

    async def _go_online(self) -> None:
        self._membership = await self._join(self._tell_registration)
        self._joined = True
        self._tell_registration()
        self._renewing = self._begin_task(self._keep_renewing())
        self._listening = self._begin_task(self._membership.listen(self._on_stop, self._renew.set))
        self._telling = self._begin_task(self._telemetry.run(self._membership))

    # -- the handler's process ----------------------------------------------------------------------------------------

    async def _keep_program(self) -> None:
        self._program = await self._prepare()
        while not self._draining:
            reason = await self._run_process()
            if self._draining:
                return
            if not reason:
                continue
            if not self.loaded.is_set() and self._supervision.gives_up:
                self._fail(f"{self._program.name} failed to import: {reason}")
                return
            await self._pause_after(reason)

    async def _run_process(self) -> str:
        """One process, from its start to its end. Returns why that came, or "" when it was asked for."""
        process = self._process = await HandlerProcess.start(self._program, self._on_frame, self._output)
        logger.info("loading %s in process %d", self._program.name, process.pid)
        self._broken, self._ready_since, self._refreshing, self._concurrency = "", None, False, 1
        self._drained.clear()
        self._tell_registration()
        end = await process.wait()
        asked = self._refreshing or process.was_killed
        reason = end if process.was_killed else self._broken or end
        self._ready, self._process = False, None
        self._drained.set()
        self._clear(reason)
        return "" if asked else reason

    async def _pause_after(self, reason: str) -> None:
        """Keeps what ends again and again from being started all the time."""
        supervision, since = self._supervision, self._ready_since
        if since is not None and time.monotonic() - since > supervision.healthy_seconds:
            self._failures = 0
        self._failures += 1
        self._renew.set()
        if self._failures == 1:
            self._pauses.reset()
        if supervision.at_once and since is not None and self._failures < supervision.crash_loop:
            self._pauses.reset()
            logger.warning("%s; another one takes its place", reason)
            return
        pause = self._pauses.next()
        logger.error("%s; the next try is in %.1f s", reason, pause)
        await asyncio.sleep(pause)

    def _tell_registration(self) -> None:
        """Has the process take jobs, as soon as nothing of the one before it is left."""
        if self._joined and self._process is not None and self._clearing is None:
            self._process.send(Kind.REGISTERED, encode_registered(self._membership.registered))

    def _clear(self, reason: str) -> None:
        """Gives up what the process was running when it ended, and gives back what it had not begun."""
        held = list(self._held.values())
        for each in held:
            self._forget(each)
        if not self._joined:
            return
        if self._draining:
            # Whoever leaves gives up what it keeps, as a try; the rest goes back as if it had not begun.
            kept = [*(each.attempt for each in held if each.begun), *self._given_back]
            if not self._supervision.counts_drained:
                kept = []
            self._begin_to_clear(self._try(self._membership.give_back(kept)))
            return
        lost = [each.attempt for each in held if each.begun and not each.stopping]
        for attempt in lost:
            logger.warning("job %s is given up: %s", attempt, reason)
        self._begin_to_clear(self._give_up(lost, reason))

    def _begin_to_clear(self, clearing: Coroutine[Any, Any, None]) -> None:
        """One after the other: what is put back as not begun must not be what is about to be lost."""
        self._clearing = self._begin_task(self._clear_after(self._clearing, clearing))

    async def _clear_after(self, before: asyncio.Task[None] | None, clearing: Coroutine[Any, Any, None]) -> None:
        if before is not None:
            await before
        await clearing
        if self._clearing is asyncio.current_task():
            self._clearing = None
            self._tell_registration()

    async def _give_up(self, lost: list[Attempt], reason: str) -> None:
        # First, so that nothing is handed to a process that is no more.
        await self._try(self._membership.give_back(lost))
        for attempt in lost:
            await self._try(self._membership.lose(attempt, reason))

    async def _try(self, call: Coroutine[Any, Any, Any]) -> None:
        try:
            await call
        except LinkError as error:
            logger.error("%s refuses what it is told: %s", self._membership.registered.other_end, error)  # noqa: TRY400

    # -- what it says -------------------------------------------------------------------------------------------------

    def _on_frame(self, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.BEGUN | Kind.ENDED | Kind.STALE | Kind.LOST | Kind.UNSTOPPABLE:
                self._on_job_frame(kind, *decode_attempt(payload))
            case Kind.READY:
                logger.info("%s is loaded", self._program.name)
                self._ready, self._ready_since = True, time.monotonic()
                self.loaded.set()
                self._renew.set()
            case Kind.BROKEN:
                self._broken = payload.decode(errors="replace")
            case Kind.CONCURRENCY:
                self._concurrency = int(payload)
                logger.info("concurrency is now %d", self._concurrency)
                self._renew.set()
            case Kind.REGISTER:
                self._is_asked = True
                self._renew.set()
            case Kind.REFRESH:
                self._refreshing = True
            case Kind.DRAINED:
                self._on_drained()

    def _on_job_frame(self, kind: Kind, attempt: Attempt, text: str) -> None:
        held = self._held.get(attempt)
        if kind is Kind.BEGUN:
            logger.info("job %s begins", attempt)
            if held is None:
                self._held[attempt] = Held(attempt)
            else:
                held.begun = True
                logger.info("job %s has begun meanwhile: its handler is stopped", attempt)
        elif held is None:
            pass
        elif kind is Kind.ENDED:
            if held.begun:
                self._failures = 0
                logger.info("job %s is %s", attempt, text)
            self._forget(held)
        elif kind is Kind.STALE:
            self._stop(held, "LOST")
        elif kind is Kind.LOST:
            logger.error("job %s: %s", attempt, text)
            self._stop(held, "LOST")
            self._begin_to_clear(self._try(self._membership.lose(attempt, text)))
        elif kind is Kind.UNSTOPPABLE and held.stopping:
            self._kill_for(held)

    def _forget(self, held: Held) -> None:
        if held.timer is not None:
            held.timer.cancel()
        del self._held[held.attempt]

    def _on_drained(self) -> None:
        self._drained.set()
        if self._refreshing and self._process is not None and not self._draining:
            logger.info("the handler process is replaced, as the handler wished")
            self._ready = False
            self._begin_task(self._process.end(self._settings.stop_grace_seconds))

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _on_stop(self, attempt: Attempt, state: str) -> None:
        held = self._held.get(attempt)
        if held is None and self._ready:
            held = self._held[attempt] = Held(attempt, begun=False)
        if held is not None:
            self._stop(held, state)

    def _stop(self, held: Held, state: str) -> None:
        """Ends the run of a job that is no longer this worker's."""
        if held.stopping or self._process is None:
            return
        if held.begun:
            logger.info("job %s is %s: its handler is stopped", held.attempt, state)
        held.stopping = True
        self._process.send(Kind.STOP, encode_attempt(held.attempt))
        self._kill_later(held)

    def _kill_later(self, held: Held) -> None:
        loop = asyncio.get_running_loop()
        held.timer = loop.call_later(self._settings.stop_grace_seconds, self._kill_for, held)

    def _kill_for(self, held: Held) -> None:
        if self._process is None:
            return
        if not held.begun and any(each.begun and not each.stopping for each in self._held.values()):
            self._kill_later(held)  # another job keeps the process from answering, as it may
            return
        logger.info("job %s does not stop: the handler process is replaced", held.attempt)
        self._ready = False
        self._process.kill(f"the handler process was killed to stop another job, {held.attempt.job}")

    # -- signs of life, and the end -----------------------------------------------------------------------------------

    @property
    def _state(self) -> str:
        if self._failures >= self._supervision.crash_loop:
            return "crashing"
        if self._failures and not self._ready:
            return "unhealthy"
        return "ready" if self._ready else "initializing"

    async def _keep_renewing(self) -> None:
        while not self._leaving:
            self._renew.clear()
            try:
                lost = await self._membership.renew(self._concurrency, self._state, list(self._held))
                for attempt, state in lost:
                    self._on_stop(attempt, state)
                if self._is_asked:
                    self._is_asked = False
                    self._tell_registration()
            except LinkError as error:
                logger.error("%s takes no signs of life: %s", self._membership.registered.other_end, error)  # noqa: TRY400
            with suppress(TimeoutError):
                await asyncio.wait_for(self._renew.wait(), self._membership.registered.renewal_seconds)

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._watch(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (RefusedError, NoProgramError) as error:
            self._fail(str(error))
        except Exception:
            logger.exception("the worker has a fault and ends")
            self._fail("")

    def _fail(self, reason: str) -> None:
        if reason and not self._status:
            logger.error(reason)
        self._status = 1
        self.hurry()

    async def _drain(self, online: asyncio.Task[None], keeper: asyncio.Task[None]) -> None:
        """Lets what runs come to its end, stops the rest, gives it back."""
        self._draining = True
        online.cancel()
        if self._process is not None and self._ready:
            self._process.send(Kind.DRAIN)
            await _first_of(self._drained, self._hurry, self._overdue)
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
        if self._clearing is not None:
            await asyncio.wait({self._clearing}, timeout=CLEARING_SECONDS)
        if self._telling is not None:
            self._telling.cancel()
            await self._telemetry.flush(self._membership)
        if self._joined:
            await self._membership.leave()
        for task in self._tasks:
            task.cancel()
        logger.info("left")

    async def _end_process(self) -> None:
        grace = self._settings.stop_grace_seconds
        if not self._hurry.is_set():
            self._given_back = [held.attempt for held in self._held.values() if held.begun]
            for held in list(self._held.values()):
                self._stop(held, "given back")
            if self._ready:
                await _first_of(self._drained, self._hurry, seconds=grace + 1)
        if self._process is None:
            return
        if self._ready and self._drained.is_set() and not self._hurry.is_set():
            await self._process.end(grace)
        else:
            self._process.kill("the worker ended")


async def _first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def main(path: str, arguments: list[str]) -> int:
    """Runs a worker for the handler file at `path`, which gets `arguments`; returns the exit status.

    The environment says the rest: RUNLANE_URL, RUNLANE_ENDPOINT, RUNLANE_WORKER_KEY, RUNLANE_WORKER_ID, RUNLANE_LINK,
    RUNLANE_QUEUES, RUNLANE_DRAIN_SECONDS, RUNLANE_STOP_GRACE_SECONDS, RUNLANE_SHIP_LOGS, RUNLANE_LOG_LEVEL. Status 0:
    it was told to end and did; 1: the handler cannot be loaded, or the gateway refuses the worker; 2: the environment
    or the path is wrong.
    """
    end_early_by_signals()
    if complaint := set_up_logging():
        return _complain(complaint)
    if not os.path.isfile(path):
        return _complain(f"there is no handler file {path}")
    try:
        settings = Settings.of(os.environ)
    except SettingsError as error:
        return _complain(str(error))
    return asyncio.run(_work(settings, Program.of_handler(path, arguments)))


async def _work(settings: Settings, program: Program) -> int:
    from .links.choice import join

    async def prepare() -> Program:
        return program

    worker = Worker(settings, partial(join, settings), prepare)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.on_signal, number)
    return await worker.run()


def _complain(text: str) -> int:
    print(f"runlane: {text}", file=sys.stderr)
    return 2
