"""Where runs of the handler take place in its process: in threads, the main one first, or in an asyncio loop."""

import asyncio
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from .ending import begin_task
from .home import Home
from .outcomes import Outcome
from .runners import HandlerConfig, Run

# The longest time between two calls of the author's concurrency modifier.
MODIFIER_SECONDS = 1.0


class Hosted(Protocol):
    """What a host knows of a job whose handler it runs."""

    @property
    def run(self) -> Run: ...

    def wake(self) -> None:
        """The run is to stop, and may wait for room."""


H = TypeVar("H", bound=Hosted)
J = TypeVar("J")
J_contra = TypeVar("J_contra", contravariant=True)

OnEnd = Callable[[J, Outcome], None]
"""The handler is done with the job: called once, in the loop."""


class Concurrency:
    """How many jobs at once the author wants, by his modifier."""

    def __init__(self, config: HandlerConfig, on_change: Callable[[int], None], first: int = 1) -> None:
        """`on_change` gets the number when it changes, in whatever thread `update` is called; it is `first` to begin
        with."""
        self.wanted = first
        self._modifier = config.modifier
        self._on_change = on_change

    @property
    def is_fixed(self) -> bool:
        return self._modifier is None

    def update(self) -> bool:
        """Asks the modifier; True when the number has changed."""
        if self._modifier is None:
            return False
        try:
            wanted = max(1, int(self._modifier(self.wanted)))
        except Exception:
            print("runlane: concurrency_modifier failed; the number of jobs at once stays", file=sys.stderr)
            traceback.print_exc()
            return False
        if wanted == self.wanted:
            return False
        self.wanted = wanted
        self._on_change(wanted)
        return True


class Host(Protocol[J_contra]):
    """`run` and `stop` are called in the loop."""

    def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs jobs in the main thread, and elsewhere, while `work` runs in a loop."""

    def run(self, job: J_contra) -> None:
        """Begins the job; returns at once."""

    def stop(self, job: J_contra) -> bool:
        """Begins to stop its run. False when there is nothing in the process that can."""


class ThreadHost(Generic[H]):
    """Runs plain functions and generators. The main thread serves too, and alone when jobs come one at a time; the loop
    has a thread of its own."""

    def __init__(
        self,
        config: HandlerConfig,
        home: Home,
        on_end: OnEnd[H],
        on_concurrency: Callable[[int], None],
        concurrency: int = 1,
    ) -> None:
        self._home = home
        self._on_end = on_end
        self._concurrency = Concurrency(config, on_concurrency, concurrency)
        self._changed = threading.Condition()
        self._waiting: deque[H] = deque()
        self._threads = 1
        self._idle = 0
        self._ended = False
        self._tick = threading.Event()

    def serve(self, work: Coroutine[Any, Any, None]) -> None:
        self._concurrency.update()
        thread = threading.Thread(target=asyncio.run, args=(self._serve(work),), name="runlane-link", daemon=True)
        thread.start()
        if not self._concurrency.is_fixed:
            threading.Thread(target=self._watch_concurrency, name="runlane-concurrency", daemon=True).start()
        self._work(is_main=True)
        thread.join()

    def run(self, job: H) -> None:
        with self._changed:
            self._waiting.append(job)
            if self._idle < len(self._waiting) and self._threads < self._concurrency.wanted:
                self._threads += 1
                threading.Thread(target=self._work, name=f"runlane-slot-{self._threads}", daemon=True).start()
            self._changed.notify()

    def stop(self, job: H) -> bool:
        stoppable = job.run.stop()
        with self._changed:
            is_waiting = job in self._waiting
            if is_waiting:
                self._waiting.remove(job)
        if is_waiting:
            self._on_end(job, Outcome("STOPPED"))
        job.wake()
        return is_waiting or stoppable

    async def _serve(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _work(self, is_main: bool = False) -> None:
        while (job := self._next(is_main)) is not None:
            self._home.call(self._on_end, job, job.run.run())
            self._tick.set()

    def _next(self, is_main: bool) -> H | None:
        with self._changed:
            while not self._ended:
                if not is_main and self._threads > self._concurrency.wanted:
                    break
                if self._waiting:
                    return self._waiting.popleft()
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            self._threads -= 1
            self._changed.notify_all()
            return None

    def _watch_concurrency(self) -> None:
        while True:
            self._tick.wait(MODIFIER_SECONDS)
            self._tick.clear()
            if self._concurrency.update():
                with self._changed:
                    self._changed.notify_all()


class LoopHost(Generic[H]):
    """Runs coroutines and async generators as tasks of one loop, in which the link is too: a thread of its own for that
    would take another turn of the interpreter lock for each job."""

    def __init__(
        self, config: HandlerConfig, on_end: OnEnd[H], on_concurrency: Callable[[int], None], concurrency: int = 1
    ) -> None:
        self._on_end = on_end
        self._concurrency = Concurrency(config, on_concurrency, concurrency)
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run(self._serve(work))

    def run(self, job: H) -> None:
        begin_task(self._run(job), self._tasks)

    def stop(self, job: H) -> bool:
        return job.run.stop()

    async def _serve(self, work: Coroutine[Any, Any, None]) -> None:
        self._concurrency.update()
        watching = None if self._concurrency.is_fixed else asyncio.create_task(self._watch_concurrency())
        await work
        if watching is not None:
            watching.cancel()

    async def _run(self, job: H) -> None:
        self._on_end(job, await job.run.run_async())
        asyncio.get_running_loop().call_soon(self._concurrency.update)  # the outcome goes first

    async def _watch_concurrency(self) -> None:
        while True:
            await asyncio.sleep(MODIFIER_SECONDS)
            self._concurrency.update()
