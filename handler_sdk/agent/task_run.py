"""A job that a task runs."""

import asyncio
from typing import Any, Protocol

from ..encoding import NotJsonError, to_json
from ..outcomes import HandlerFailure, Limits, Outcome, State, error_text, failed, output_of
from ..runners import Outlet
from .task_process import Answers, TaskProcess


class Processes(Protocol):
    """Where processes of the task come from. stays: one serves all jobs, else each job has its own."""

    @property
    def stays(self) -> bool: ...

    async def acquire(self) -> TaskProcess:
        """A process that is ready. It does not return when there is none: then this process ends."""

    def release(self, process: TaskProcess, is_done: bool) -> None:
        """A job needs it no more; it has done what it was to, or is to do no more."""

    async def died(self, process: TaskProcess) -> None:
        """It ended with jobs in hand. Does not return: this process ends, and what it has is given up."""


class TaskOutlet(Outlet, Protocol):
    """Where chunks and progress go."""

    def show(self, progress: bytes) -> None: ...


class TaskRun:
    """See `JobRun`."""

    def __init__(self, job: str, line: bytes, outlet: TaskOutlet, limits: Limits, processes: Processes) -> None:
        self.stopping = False
        self._job = job
        self._line = line
        self._outlet = outlet
        self._limits = limits
        self._processes = processes
        self._process: TaskProcess | None = None
        self._running: asyncio.Task[Any] | None = None

    async def run(self) -> Outcome:
        """Comes to its end in this task, which must run nothing else. Raises nothing."""
        self._running = asyncio.current_task()
        try:
            if self.stopping:
                return Outcome("STOPPED")
            self._process = await self._processes.acquire()
            answers = self._process.begin(self._job, self._line, max(self._limits.output, self._limits.chunk))
            return await self._follow(answers)
        except asyncio.CancelledError:
            return Outcome("STOPPED")
        except HandlerFailure as failure:
            return failed(str(failure))
        finally:
            self._leave()

    def stop(self) -> bool:
        """Begins to stop it. False when that takes the end of a process that serves others as well."""
        self.stopping = True
        if not self._processes.stays:
            if self._running is not None:
                self._running.cancel()
            return True
        if self._process is None:
            return True  # it has not begun
        if self._process.stops:
            self._process.stop(self._job)
        return self._process.stops

    def _leave(self) -> None:
        if self._process is not None:
            self._process.forget(self._job)
            self._processes.release(self._process, is_done=not self.stopping)

    async def _follow(self, answers: Answers) -> Outcome:
        assert self._process is not None  # noqa: S101
        while (message := await answers.next()) is not None:
            if "chunk" in message:
                if not self.stopping:
                    await self._outlet.send_async(self._json(message["chunk"], "a chunk"))
            elif "progress" in message:
                self._outlet.show(self._json(message["progress"], "the progress"))
            else:
                return self._outcome(message)
        await self._processes.died(self._process)
        return Outcome("STOPPED")

    def _outcome(self, message: dict[str, Any]) -> Outcome:
        refresh = message.get("refresh") is True and self._processes.stays
        if self.stopping:
            return Outcome("STOPPED", refresh=refresh)
        if message.get("error"):
            state: State = "RETRY" if message.get("retry") is True else "FAILED"
            return failed(error_text(message["error"]), refresh, state)
        if message.get("streamed") is True:
            return Outcome("COMPLETED", refresh=refresh)
        return Outcome("COMPLETED", "output", output_of(message.get("result"), self._limits.output), refresh)

    def _json(self, value: Any, what: str) -> bytes:
        try:
            encoded = to_json(value)
        except NotJsonError as error:
            raise HandlerFailure(f"{what} of the task is not JSON: {error}") from None
        if len(encoded) > self._limits.chunk:
            text = f"{what} of the task has {len(encoded)} bytes; the limit is {self._limits.chunk} bytes"
            raise HandlerFailure(text)
        return encoded
