"""`python -m handler_sdk.agent.bridge`: the process that takes the jobs of an agent's worker, and has a task run them.

It is what the handler's process is to other workers. When the task's process ends unasked, so does this one: the
worker then gives up what it had, and starts another in its own time. Until the task is ready, this process takes no
jobs.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from ..channel import Channel
from ..child import enter
from ..ending import begin_task, end_with_worker
from ..frames import Kind
from ..home import Home
from ..hosts import Host, OnEnd
from ..job import Job
from ..lines import one_line
from ..links import TakenJob
from ..outcomes import Limits
from ..taker import Taker
from ..work import AnyJob
from . import guard
from .task import Task
from .task_process import NotReadyError, TaskProcess
from .task_run import TaskRun

# It is the error of the jobs that were lost by it.
LONGEST_REASON = 4000


class TaskHost:
    """See `Host` and `Processes`."""

    def __init__(
        self, task: Task, on_end: OnEnd[AnyJob], on_concurrency: Callable[[int], None], end: Callable[[str], NoReturn]
    ) -> None:
        """`end` ends this process, and tells the worker why."""
        self._task = task
        self._on_end = on_end
        self._on_concurrency = on_concurrency
        self._end = end
        self._process: TaskProcess | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def stays(self) -> bool:
        return self._task.stays

    def serve(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run(self._serve(work))

    def run(self, job: AnyJob) -> None:
        begin_task(self._run(job), self._tasks)

    def stop(self, job: AnyJob) -> bool:
        run: TaskRun = job.run
        return run.stop()

    async def acquire(self) -> TaskProcess:
        """See `Processes`."""
        if self._process is not None:
            return self._process
        if self._leaving is not None:  # what it had on the machine may not be there twice
            await asyncio.shield(self._leaving)
        try:
            return await TaskProcess.start(self._task, self._on_concurrency)
        except NotReadyError as error:
            self._end(str(error))

    def release(self, process: TaskProcess, is_done: bool) -> None:
        """See `Processes`."""
        if self.stays:
            return
        if not is_done:
            process.kill()
        self._leaving = asyncio.create_task(process.end(self._task.stop_seconds))

    async def died(self, process: TaskProcess) -> None:
        """See `Processes`."""
        self._end(await process.wait())

    async def _serve(self, work: Coroutine[Any, Any, None]) -> None:
        if self.stays:
            if self._task.concurrency > 1:
                self._on_concurrency(self._task.concurrency)
            self._process = await self.acquire()
            watching = asyncio.create_task(self.died(self._process))
            await work
            watching.cancel()
            await self._process.end(self._task.stop_seconds)
        else:
            self.release(await self.acquire(), is_done=True)  # it has shown that the task can start
            await work
            if self._leaving is not None:
                await self._leaving

    async def _run(self, job: Job[TaskRun]) -> None:
        self._on_end(job, await job.run.run())


class TaskWork:
    """See `Work`."""

    is_async = True

    def __init__(self, task: Task, channel: Channel) -> None:
        self._task = task
        self._channel = channel

    def host(self, _home: Home, on_end: OnEnd[AnyJob], on_concurrency: Callable[[int], None]) -> Host[AnyJob]:
        self._host = TaskHost(self._task, on_end, on_concurrency, self._end)
        return self._host

    def read(self, taken: TakenJob) -> dict[str, Any]:
        """The input stays as it came; that Python can read it is seen here, where there is somebody to tell."""
        given, request = taken.input or b"null", taken.request or b"{}"
        json.loads(given)
        return {"attempt": taken.attempt, "input": given, "request": request, "head": self._head(json.loads(request))}

    def run(self, fields: dict[str, Any], job: Job[TaskRun], limits: Limits, worker: str) -> TaskRun:
        line = self._line(fields, limits, worker) if "head" in fields else b""  # of what could not be read
        return TaskRun(job.attempt.job, line, job, limits, self._host)

    def _head(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a task that came by Runqy's API is told of itself; the fields of other requests are their clients'."""
        queue, most = request.get("queue"), request.get("max_retry")
        name = queue if isinstance(queue, str) else self._task.queue
        return {"type": name, "queue": name} | ({"max_retry": most} if type(most) is int else {})

    def _line(self, fields: dict[str, Any], limits: Limits, worker: str) -> bytes:
        id, number = fields["attempt"]
        head = {"task_id": id, **fields["head"], "retry_count": number - 1}
        ours = {"attempt": number, "worker": worker, "output_limit": limits.output, "chunk_limit": limits.chunk}
        return b'%b,"payload":%b,"runlane":%b,"request":%b}}' % (
            json.dumps(head).encode()[:-1],
            one_line(fields["input"]),
            json.dumps(ours).encode()[:-1],
            one_line(fields["request"]),
        )

    def _end(self, reason: str) -> NoReturn:
        self._channel.send(Kind.BROKEN, reason[:LONGEST_REASON].encode(errors="replace"))
        sys.stdout.flush()
        end_with_worker()


def main() -> None:
    """The process, from its start to its end."""
    task = Task.decode(sys.stdin.buffer.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    guard.of_this_process().watch(os.getpid())
    channel = enter()
    Taker(TaskWork(task, channel), channel).serve()


if __name__ == "__main__":
    main()
