"""One process of a task, from its start to its end, and what is said to it and by it (`lines`)."""

import asyncio
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..ending import die_with
from ..frames import READ_AT_ONCE
from ..lines import Line, LineBuffer, message_in
from ..process import describe_exit
from . import guard
from .task import Task

logger = logging.getLogger("runlane.task")

OnMessage = Callable[[dict[str, Any]], None]

# Messages of one job that wait to be dealt with; beyond, the process waits with the next one.
WINDOW = 64

# Before its limits are known, and around what is limited.
LEAST_LINE = 1 << 20

# Between the end of its output and that of the process, whichever comes first.
SECONDS_TO_END = 1.0


class NotReadyError(Exception):
    """The process did not become ready; the text says why."""


class Answers:
    """What a process says of one job, in order."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(WINDOW)

    async def put(self, message: dict[str, Any] | None) -> None:
        """Waits while there are too many. None: there is nothing more to come."""
        await self._messages.put(message)

    async def next(self) -> dict[str, Any] | None:
        return await self._messages.get()

    def drop(self) -> None:
        """Nobody asks for more."""
        while not self._messages.empty():
            self._messages.get_nowait()


class _Protocol(SubprocessStreamProtocol):
    """Of a process whose end is noticed at once: `Process.wait` of asyncio waits until nobody holds its pipes any more,
    which it may have handed on."""

    def __init__(self) -> None:
        super().__init__(limit=READ_AT_ONCE, loop=asyncio.get_running_loop())
        self._exited = asyncio.Event()

    def process_exited(self) -> None:
        self._exited.set()
        super().process_exited()

    async def wait(self) -> None:
        await self._exited.wait()


class TaskProcess:
    """stops: whether it stops a job that it is told to."""

    def __init__(
        self,
        task: Task,
        transport: asyncio.SubprocessTransport,
        protocol: _Protocol,
        on_concurrency: Callable[[int], None],
    ) -> None:
        self.stops = False
        self._task = task
        self._transport = transport
        self._protocol = protocol
        self._process = Process(transport, protocol, asyncio.get_running_loop())
        self._on_concurrency = on_concurrency
        self._lines = LineBuffer(LEAST_LINE)
        self._answers: dict[str, Answers] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.create_task(self._follow())

    @classmethod
    async def start(cls, task: Task, on_concurrency: Callable[[int], None]) -> "TaskProcess":
        """Starts one and waits until it is ready. `on_concurrency` gets how many jobs at once it wants, if it says so.

        Raises NotReadyError.
        """
        try:
            transport, protocol = await asyncio.get_running_loop().subprocess_exec(
                _Protocol, *task.command, stdin=PIPE, stdout=PIPE, stderr=None, env=task.environment(), cwd=task.folder,
                process_group=None if task.stays else 0, preexec_fn=partial(die_with, os.getpid()),
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise NotReadyError(f"the startup command cannot be run: {error}") from None
        started = cls(task, transport, protocol, on_concurrency)
        if not task.stays:
            guard.of_this_process().watch(started._process.pid)
        try:
            async with asyncio.timeout(task.startup_seconds):
                await asyncio.shield(started._ready)
        except TimeoutError:
            raise NotReadyError(f"the task was not ready within {task.startup_seconds:g} s") from None
        finally:
            if not started.is_ready:
                started.kill()
        return started

    @property
    def is_ready(self) -> bool:
        """Whether it has said so."""
        return self._ready.done() and not self._ready.cancelled() and self._ready.exception() is None

    def begin(self, job: str, line: bytes, longest_answer: int) -> Answers:
        """Gives it a job, and returns where its answers come. `longest_answer`: in bytes, as JSON."""
        # Python's json writes a character of up to four bytes in up to three times as many.
        self._lines.limit = LEAST_LINE + 3 * longest_answer
        answers = self._answers[job] = Answers()
        self._say(line)
        if not self._task.stays:
            self._end_input()
        return answers

    def forget(self, job: str) -> None:
        """What it still says of the job is dropped."""
        answers = self._answers.pop(job, None)
        if answers is not None:
            answers.drop()

    def stop(self, job: str) -> None:
        """Tells it to stop the job."""
        self._say(json.dumps({"cancel": job}).encode())

    async def wait(self) -> str:
        """Waits for its end, and until all that it said is dealt with; returns how it ended."""
        return await asyncio.shield(self._ended)

    async def end(self, seconds: float) -> None:
        """Lets it end by itself: without input at first, then by SIGTERM, each for half of the time."""
        self._end_input()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._protocol.wait(), seconds / 2)
                break
            self._send(number)
        await self._protocol.wait()
        self.kill()

    def kill(self) -> None:
        """Ends it, and where it has a group of its own, what it has started."""
        self._ready.cancel()
        if self._task.stays:
            self._send(signal.SIGKILL)
        else:
            guard.kill_group(self._process.pid)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101
        if not self._process.stdin.is_closing():
            self._process.stdin.write(line + b"\n")

    def _end_input(self) -> None:
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()

    async def _follow(self) -> str:
        reading, exiting = asyncio.create_task(self._read()), asyncio.create_task(self._protocol.wait())
        await asyncio.wait({reading, exiting}, return_when=asyncio.FIRST_COMPLETED)
        # What it has started may hold its output open, and it may close that and go on.
        await asyncio.wait({reading, exiting}, timeout=SECONDS_TO_END)
        if self._process.returncode is None:
            self._send(signal.SIGKILL)
        await exiting
        end = describe_exit("the task's process", self._transport.get_returncode() or 0)
        reading.cancel()
        self._transport.close()
        if not self._ready.done():
            self._ready.set_exception(NotReadyError(f"{end} before it was ready"))
        self.kill()
        if not self._task.stays:
            guard.of_this_process().forget(self._process.pid)
        for answers in list(self._answers.values()):
            await answers.put(None)
        return end

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        while data := await self._process.stdout.read(READ_AT_ONCE):
            for line in self._lines.feed(data):
                await self._on_line(line)
        for line in self._lines.end():
            await self._on_line(line)

    async def _on_line(self, line: Line) -> None:
        message = message_in(line.text) if line.is_whole else None
        if message is None:
            message = self._unreadable(line)
        if message is not None and "task_id" in message:
            answers = self._answers.get(str(message["task_id"]))
            if answers is not None:
                await answers.put(message)
            else:
                logger.debug("an answer for job %s came too late", message["task_id"])
        elif message is None or not self._understands(message):
            sys.stdout.buffer.write(line.text + b"\n")
            sys.stdout.buffer.flush()

    def _understands(self, message: dict[str, Any]) -> bool:
        """Deals with what a process says of itself. False when that is nothing of ours, but something that it logs."""
        ours = message.get("runlane")
        ours = ours if isinstance(ours, dict) else {}
        if isinstance(ours.get("concurrency"), int):
            if self._task.stays:
                self._on_concurrency(max(1, ours["concurrency"]))
        elif message.get("status") == "ready" and not self._ready.done():
            self.stops = ours.get("stops") is True
            self._ready.set_result(None)
        elif message.get("status") == "error" and not self._ready.done():
            self._ready.set_exception(NotReadyError(f"the task cannot start: {message.get('error')}"))
        else:
            return False
        return True

    def _unreadable(self, line: Line) -> dict[str, Any] | None:
        """An answer that is not JSON, or of which not all is kept, fails its job. None for a log. One that is too long
        names its job in a part that is kept, or there is only one job."""
        if line.is_whole:
            job = line.answers_to
            return {"task_id": job, "error": "the task's answer is not JSON"} if job in self._answers else None
        job = line.task_id if line.task_id in self._answers else ""
        if not job and len(self._answers) == 1 and line.text.startswith(b"{"):
            (job,) = self._answers
        if not job:
            return None
        text = f"the task's answer has a line of {line.size} bytes; the limit is {self._lines.limit} bytes"
        return {"task_id": job, "error": text}
