"""Where runs of the handler take place in its process: in threads, the main one first, or in an asyncio loop."""

import asyncio
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .frames import Kind
from .outcomes import Limits, Outcome
from .runners import HandlerConfig, Run
from .window import Window

Send = Callable[[Kind, int, bytes], None]

# Chunks of one job that are not yet in the store, at most.
WINDOW = 8 * 1024 * 1024

# The longest time between two calls of the author's concurrency modifier.
MODIFIER_SECONDS = 1.0


class Job:
    """A job in the handler's process, and the way of its chunks to the worker."""

    def __init__(
        self,
        number: int,
        fields: dict[str, Any],
        limits: Limits,
        worker: str,
        send: Send,
        forget: Callable[["Job"], None],
    ) -> None:
        self.number = number
        self.fields = fields
        self.id: str = fields["id"]
        self.window = Window(WINDOW)
        self.run: Run | None = None
        self._limits = limits
        self._worker = worker
        self._send = send
        self._forget = forget

    def prepare(self, config: HandlerConfig) -> Run:
        self.run = Run(config, self.fields, self, self._limits, self._worker)
        return self.run

    def send(self, chunk: bytes) -> None:
        run = self.run
        self.window.take(len(chunk), lambda: run is not None and run.stopping)
        self._send(Kind.CHUNK, self.number, chunk)

    async def send_async(self, chunk: bytes) -> None:
        await self.window.take_async(len(chunk))
        self._send(Kind.CHUNK, self.number, chunk)

    def end(self, outcome: Outcome) -> None:
        self._forget(self)
        self._send(Kind.DONE, self.number, outcome.encode())


class Concurrency:
    """How many jobs at once the author wants, by his modifier."""

    def __init__(self, config: HandlerConfig, send: Send) -> None:
        self.wanted = 1
        self._modifier = config.modifier
        self._send = send

    @property
    def is_fixed(self) -> bool:
        return self._modifier is None

    def update(self) -> bool:
        """Asks the modifier; True, and the worker knows, when the number has changed."""
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
        self._send(Kind.CONCURRENCY, wanted, b"")
        return True


class Source(Protocol):
    """Where jobs come from: what is read there calls `run`, `stop` and `end` of the host."""

    def fileno(self) -> int: ...

    def read(self) -> None:
        """Waits for something to read, and does it."""


class Host(Protocol):
    def serve(self, source: Source) -> None:
        """Runs jobs in the main thread, and elsewhere, until `end`."""

    def run(self, job: Job) -> None: ...

    def stop(self, job: Job) -> None: ...

    def end(self) -> None: ...


class ThreadHost:
    """Runs plain functions and generators. The main thread serves too, and alone when jobs come one at a time."""

    def __init__(self, config: HandlerConfig, send: Send) -> None:
        self._config = config
        self._send = send
        self._concurrency = Concurrency(config, send)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._threads = 1
        self._idle = 0
        self._ended = False
        self._tick = threading.Event()

    def serve(self, source: Source) -> None:
        threading.Thread(target=_read_forever, args=(source,), name="runlane-frames", daemon=True).start()
        self._concurrency.update()
        if not self._concurrency.is_fixed:
            threading.Thread(target=self._watch_concurrency, name="runlane-concurrency", daemon=True).start()
        self._send(Kind.READY, 0, b"")
        self._work(is_main=True)

    def run(self, job: Job) -> None:
        with self._changed:
            self._waiting.append(job)
            if self._idle < len(self._waiting) and self._threads < self._concurrency.wanted:
                self._threads += 1
                threading.Thread(target=self._work, name=f"runlane-slot-{self._threads}", daemon=True).start()
            self._changed.notify()

    def stop(self, job: Job) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.end(Outcome("STOPPED"))
                return
        if job.run is not None and not job.run.stop():
            self._send(Kind.UNSTOPPABLE, job.number, b"")
        job.window.wake()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _work(self, is_main: bool = False) -> None:
        while (job := self._next(is_main)) is not None:
            assert job.run is not None  # noqa: S101
            job.end(job.run.run())
            self._tick.set()

    def _next(self, is_main: bool) -> Job | None:
        with self._changed:
            while not self._ended:
                if not is_main and self._threads > self._concurrency.wanted:
                    break
                if self._waiting:
                    job = self._waiting.popleft()
                    job.prepare(self._config)
                    return job
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


def _read_forever(source: Source) -> None:
    while True:
        source.read()


class LoopHost:
    """Runs coroutines and async generators as tasks of one loop, which also reads what the worker says: a thread of its
    own for that would take another turn of the interpreter lock for each job."""

    def __init__(self, config: HandlerConfig, send: Send) -> None:
        self._config = config
        self._send = send
        self._concurrency = Concurrency(config, send)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    def serve(self, source: Source) -> None:
        asyncio.run(self._serve(source))

    def run(self, job: Job) -> None:
        task = asyncio.create_task(self._run(job, job.prepare(self._config)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self, job: Job) -> None:
        if job.run is not None:
            job.run.stop()

    def end(self) -> None:
        self._ended.set()

    async def _serve(self, source: Source) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(source, source.read)
        self._concurrency.update()
        watching = None if self._concurrency.is_fixed else asyncio.create_task(self._watch_concurrency())
        self._send(Kind.READY, 0, b"")
        await self._ended.wait()
        loop.remove_reader(source)
        if watching is not None:
            watching.cancel()

    async def _run(self, job: Job, run: Run) -> None:
        job.end(await run.run_async())
        self._concurrency.update()

    async def _watch_concurrency(self) -> None:
        while True:
            await asyncio.sleep(MODIFIER_SECONDS)
            self._concurrency.update()
