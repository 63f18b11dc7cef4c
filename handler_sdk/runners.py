"""The kinds of handler, and one run of a handler for one job.

What counts is what the handler gives back: a generator or an async generator is a stream of chunks, an awaitable is
awaited, anything else is the output. A plain function that makes one of these is treated by what it made. The kind that
`kind_of` finds beforehand decides only where the handler runs (`hosts`).

Stopping: an awaitable is cancelled, a generator is closed at its next yield, a plain function cannot be stopped here.
"""

import asyncio
import functools
import inspect
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from .encoding import NotJsonError, split_string, to_json
from .outcomes import (
    HandlerFailure,
    Limits,
    Outcome,
    authors_part,
    check_size,
    describe_exception,
    error_text,
    failed,
    output_of,
)
from .retrying import RetryableError

Handler = Callable[[dict[str, Any]], Any]
Modifier = Callable[[int], int]


class HandlerKind(Enum):
    PLAIN = "function"
    GENERATOR = "generator function"
    COROUTINE = "coroutine function"
    ASYNC_GENERATOR = "async generator function"

    @property
    def is_async(self) -> bool:
        return self in (HandlerKind.COROUTINE, HandlerKind.ASYNC_GENERATOR)


def kind_of(handler: Any) -> HandlerKind:
    """Looks through functools.partial and at the `__call__` of objects."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not inspect.isroutine(handler) and not inspect.isclass(handler):
        handler = type(handler).__call__
    if inspect.isasyncgenfunction(handler):
        return HandlerKind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(handler):
        return HandlerKind.COROUTINE
    return HandlerKind.GENERATOR if inspect.isgeneratorfunction(handler) else HandlerKind.PLAIN


@dataclass(frozen=True)
class HandlerConfig:
    """What `start` was given."""

    handler: Handler
    kind: HandlerKind
    aggregate: bool = False
    refresh: bool = False
    modifier: Modifier | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "HandlerConfig":
        """Raises TypeError when there is no callable "handler", or a "concurrency_modifier" that cannot be called."""
        handler, modifier = config.get("handler"), config.get("concurrency_modifier")
        if not callable(handler):
            raise TypeError('handler_sdk.start() needs {"handler": a function of one job}')
        if modifier is not None and (not callable(modifier) or kind_of(modifier) is not HandlerKind.PLAIN):
            raise TypeError('"concurrency_modifier" must be a plain function of one number')
        return cls(
            handler,
            kind_of(handler),
            bool(config.get("return_aggregate_stream")),
            bool(config.get("refresh_worker")),
            modifier,
        )


class Outlet(Protocol):
    """Where the chunks of a run go. Both forms wait while too much is on its way."""

    def send(self, chunk: bytes) -> None: ...

    async def send_async(self, chunk: bytes) -> None: ...


class JobRun(Protocol):
    """What is done for one attempt of one job, wherever that is.

    stopping: it is to stop, and what comes of it counts no more.
    """

    stopping: bool

    def stop(self) -> bool:
        """Begins to stop it, from any thread. False when there is nothing here that can."""


class _StoppedError(Exception):
    """Leaves a run whose job was stopped between two steps of the handler."""


class Run:
    """One attempt of one job."""

    def __init__(
        self, config: HandlerConfig, job: dict[str, Any], outlet: Outlet, limits: Limits, worker: str = ""
    ) -> None:
        self.job = job
        self.stopping = False
        self.stoppable = config.kind is not HandlerKind.PLAIN
        self._config = config
        self._outlet = outlet
        self._limits = limits
        self._worker = worker
        self._refresh = config.refresh
        self._chunks: list[bytes] = []
        self._size = 2
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def run(self) -> Outcome:
        """Runs the handler to its end in this thread. Never raises."""
        try:
            made = self._config.handler(self.job)
            if inspect.isgenerator(made):
                return self._iterate(made)
            if inspect.isawaitable(made) or inspect.isasyncgen(made):
                return _loop_of_thread().run(self._guard(made))
            return self._returned(made)
        except BaseException as error:
            return self._outcome_of(error)

    async def run_async(self) -> Outcome:
        """Runs the handler to its end in this task, which must run nothing else. Never raises."""
        try:
            self._enter_task()
            return await self._drive(self._config.handler(self.job))
        except BaseException as error:
            return self._outcome_of(error)

    def stop(self) -> bool:
        """Begins to stop the run, from any thread. False when there is nothing here that can."""
        self.stopping = True
        if self._task is not None:
            loop, task = self._task
            with suppress(RuntimeError):  # the loop of a run that has just ended may be closed
                loop.call_soon_threadsafe(task.cancel)
        return self.stoppable

    def _enter_task(self) -> None:
        self.stoppable = True
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task = asyncio.get_running_loop(), task
        self._check()

    async def _guard(self, made: Any) -> Outcome:
        try:
            self._enter_task()
            return await self._drive(made)
        except BaseException as error:
            return self._outcome_of(error)

    async def _drive(self, made: Any) -> Outcome:
        while inspect.isawaitable(made):
            made = await made
        if inspect.isasyncgen(made):
            return await self._iterate_async(made)
        if inspect.isgenerator(made):
            return await self._iterate_async(_turn_by_turn(made))
        return self._returned(made)

    def _iterate(self, generator: Generator[Any, Any, Any]) -> Outcome:
        self.stoppable = True
        with closing(generator):
            for value in generator:
                self._check()
                for chunk in self._chunks_of(value):
                    self._outlet.send(chunk)
                    self._check()
        return self._streamed()

    async def _iterate_async(self, generator: AsyncGenerator[Any, Any]) -> Outcome:
        async with aclosing(generator):
            async for value in generator:
                self._check()
                for chunk in self._chunks_of(value):
                    await self._outlet.send_async(chunk)
        return self._streamed()

    def _check(self) -> None:
        if self.stopping:
            raise _StoppedError

    def _chunks_of(self, value: Any) -> list[bytes]:
        if isinstance(value, dict) and not (value := self._obey(value)):
            return []  # it was nothing but a wish for a fresh worker
        chunks = split_string(value, self._limits.chunk) if isinstance(value, str) else [self._chunk_of(value)]
        if self._config.aggregate:
            self._keep(chunks)
        return chunks

    def _keep(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._size += len(chunk) + bool(self._chunks)
            check_size(self._size, self._limits.output)
            self._chunks.append(chunk)

    def _chunk_of(self, value: Any) -> bytes:
        try:
            chunk = to_json(value)
        except NotJsonError as error:
            raise HandlerFailure(f"a chunk of the handler is not JSON: {error}") from None
        if len(chunk) > self._limits.chunk:
            raise HandlerFailure(
                f"a chunk of the handler has {len(chunk)} bytes; the limit is {self._limits.chunk} bytes, "
                "and only strings are split"
            )
        return chunk

    def _obey(self, value: dict[Any, Any]) -> dict[Any, Any] | None:
        """The dict without its "refresh_worker", or None when nothing else was in it. Raises when it has an "error"."""
        if "refresh_worker" in value:
            self._refresh = self._refresh or bool(value["refresh_worker"])
            value = {key: item for key, item in value.items() if key != "refresh_worker"}
            if not value:
                return None
        if value.get("error"):
            raise HandlerFailure(error_text(value["error"]))
        return value

    def _returned(self, value: Any) -> Outcome:
        if isinstance(value, dict):
            value = {} if (rest := self._obey(value)) is None else rest
        return Outcome("COMPLETED", "output", output_of(value, self._limits.output), self._refresh)

    def _streamed(self) -> Outcome:
        if self._config.aggregate:
            return Outcome("COMPLETED", "output", b"[" + b",".join(self._chunks) + b"]", self._refresh)
        return Outcome("COMPLETED", refresh=self._refresh)

    def _outcome_of(self, error: BaseException) -> Outcome:
        if self.stopping:
            return Outcome("STOPPED", refresh=self._refresh)
        if isinstance(error, HandlerFailure):
            return failed(str(error), self._refresh)
        if isinstance(error, RetryableError):
            return failed(str(error) or type(error).__name__, self._refresh, "RETRY")
        traceback.print_exception(type(error), error, authors_part(error), file=sys.stderr)
        return failed(describe_exception(error, self._worker), self._refresh)


async def _turn_by_turn(generator: Generator[Any, Any, Any]) -> AsyncGenerator[Any, None]:
    """A plain generator, in turns with whatever else the loop has to do."""
    with closing(generator):
        for value in generator:
            yield value
            await asyncio.sleep(0)


_of_thread = threading.local()


def _loop_of_thread() -> asyncio.Runner:
    """One loop for all runs in a thread, since clients that a handler keeps between jobs are bound to their loop."""
    if not hasattr(_of_thread, "runner"):
        _of_thread.runner = asyncio.Runner()
    runner: asyncio.Runner = _of_thread.runner
    return runner
