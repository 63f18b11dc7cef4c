"""One of the processes that generate the load."""

import asyncio
import contextlib
import itertools
import resource
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import uvloop

from .arrivals import times
from .endpoint import Endpoint, open_session
from .errors import FAULT, NOT_SENT, TIMEOUT, UNFINISHED, Failed
from .plan import Assignment, Begin, Order, Stop
from .recorder import Recorder, Trial, Window
from .scenarios import OPERATIONS
from .timings import LAG, LATE

EARLY = 0.001
"""Timers count milliseconds, so what is due within the next one is sent now, and its time counts from now."""

BEFORE_A_SECOND = 0.003
"""So long before a second its window begins, for what is sent early to be in it."""

AT_ONCE = 16
"""So many operations are begun before those under way are looked after again."""

SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_BREAK_OFF = 1.0


class Ready(msgspec.Struct, tag=True):
    """From a process: the load can begin."""


class Unusable(msgspec.Struct, tag=True):
    """From a process: what has to be there before the load can begin is not to be had."""

    reason: str


class Done(msgspec.Struct, tag=True):
    """From a process: that was all."""


Report = Ready | Unusable | Window | Done

_assignment = msgspec.json.Decoder(Assignment)
_order = msgspec.json.Decoder(Order)


def main(pipe: Connection) -> None:
    """Does what comes through the pipe: an assignment, then orders."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the process that gives the orders
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        assignment = _assignment.decode(pipe.recv_bytes())
    except EOFError:
        return  # that process has ended
    uvloop.run(Generator(assignment, pipe).run())


class Generator:
    """Sends its share of the operations, and tells once a second what it has seen."""

    def __init__(self, assignment: Assignment, pipe: Connection) -> None:
        self._assignment = assignment
        self._plan = plan = assignment.plan
        self._pipe = pipe
        self._most_open = len(range(assignment.index, plan.most_open, plan.processes))
        self._connections = len(range(assignment.index, plan.connections or plan.most_open, plan.processes))
        self._free = asyncio.Semaphore(self._connections)
        self._recorder = Recorder()
        self._unmeasured = Recorder()
        self._tasks: set[asyncio.Task[None]] = set()
        self._begin: asyncio.Future[float | None]
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """From the assignment to the end."""
        loop = asyncio.get_running_loop()
        self._begin = loop.create_future()
        loop.add_reader(self._pipe.fileno(), self._take_order)
        async with open_session(self._assignment.key) as session:
            endpoint = Endpoint(session, self._plan.url)
            self._scenario = OPERATIONS[self._plan.operation](endpoint, self._assignment)
            preparing = asyncio.create_task(self._prepare())
            either: set[asyncio.Future[Any]] = {preparing, self._begin}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if preparing.done():
                self._tell(preparing.result())
            preparing.cancel()
            begin = await self._begin
            if begin is None:
                return
            self._began = begin
            async with self._telling():
                await self._generate()
        self._tell(Done())

    async def _prepare(self) -> Ready | Unusable:
        try:
            async with asyncio.timeout(self._plan.timeout):
                await self._scenario.prepare()
        except Failed as failure:
            return Unusable(f"{failure.kind}: {failure.told(self._assignment.key).example}")
        except TimeoutError:
            return Unusable("it does not answer within --timeout")
        return Ready()

    def _tell(self, report: Report) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more, and the orders end too
            self._pipe.send_bytes(msgspec.json.encode(report))

    def _take_order(self) -> None:
        try:
            order = _order.decode(self._pipe.recv_bytes())
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            order = Stop()
        if isinstance(order, Begin):
            self._begin.set_result(order.at)
            return
        self._stop.set()
        if not self._begin.done():
            self._begin.set_result(None)

    async def _generate(self) -> None:
        """Sends, then waits for what is unfinished; after a stop, not for long."""
        load = asyncio.create_task(self._closed_loop() if self._plan.is_closed else self._open_loop())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({load, stopped}, return_when=asyncio.FIRST_COMPLETED)
        load.cancel()
        if load.done():
            load.result()
            idle = asyncio.create_task(self._idle())
            await asyncio.wait({stopped, idle}, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
        stopped.cancel()
        await self._break_off()

    async def _idle(self) -> None:
        """Ends when nothing is unfinished."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _break_off(self) -> None:
        """What is unfinished has a moment left."""
        if self._tasks:
            _, unfinished = await asyncio.wait(self._tasks, timeout=SECONDS_TO_BREAK_OFF)
            self._recorder.window.abandoned += len(unfinished)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _open_loop(self) -> None:
        """Operations begin when they are to, whatever became of those before."""
        share = itertools.islice(times(self._plan), self._assignment.index, None, self._plan.processes)
        for number, at in enumerate(share):
            intended = self._began + at
            pause = intended - EARLY - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            elif number % AT_ONCE == 0:
                await asyncio.sleep(0)
            recorder = self._recorder_at(intended)
            recorder.window.offered += 1
            if len(self._tasks) >= self._most_open:
                recorder.failed(Failed(NOT_SENT))
            else:
                self._start(self._perform(recorder, intended))
        await _until(self._began + self._plan.end)

    async def _closed_loop(self) -> None:
        """So many operations are under way, each followed by the next."""
        end = self._began + self._plan.end
        await _until(self._began)
        for _ in range(self._connections):
            self._start(self._one_after_the_other(end))
        await _until(end)

    async def _one_after_the_other(self, end: float) -> None:
        while (now := time.monotonic()) < end and not self._stop.is_set():
            recorder = self._recorder_at(now)
            recorder.window.offered += 1
            await self._perform(recorder, now)

    def _recorder_at(self, intended: float) -> Recorder:
        """What was to be sent in the warm-up does not count."""
        return self._unmeasured if intended < self._began + self._plan.warm_up else self._recorder

    async def _perform(self, recorder: Recorder, intended: float) -> None:
        recorder.value(LATE, time.monotonic() - intended)
        trial = Trial(recorder, intended)
        try:
            async with asyncio.timeout(self._plan.timeout), self._free:
                if self._stop.is_set():
                    recorder.window.abandoned += 1
                    return
                trial.send()
                await self._scenario.perform(trial)
        except Failed as failure:
            recorder.failed(failure.told(self._assignment.key))
        except TimeoutError:
            trial.expired()
            recorder.failed(Failed(UNFINISHED if trial.accepted else TIMEOUT))
        except Exception as fault:  # what a server answers is no reason to lose a test
            recorder.failed(Failed(FAULT, repr(fault)).told(self._assignment.key))
        else:
            recorder.window.succeeded += 1

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextlib.asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Meanwhile each second is told when it is over; at the end the last one."""
        tasks = [asyncio.create_task(self._tell_each_second()), asyncio.create_task(self._watch_the_loop())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
        self._tell(self._recorder.take(0))

    async def _tell_each_second(self) -> None:
        warm = self._began + self._plan.warm_up
        await _until(warm - BEFORE_A_SECOND)
        self._recorder.start()
        for second in itertools.count(1):
            await _until(warm + second - BEFORE_A_SECOND)
            self._tell(self._recorder.take(len(self._tasks)))

    async def _watch_the_loop(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            self._recorder_at(now).value(LAG, now - before - SECONDS_BETWEEN_LOOKS)


async def _until(at: float) -> None:
    """Until this time of the monotonic clock."""
    await asyncio.sleep(at - time.monotonic())
