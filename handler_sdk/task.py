"""`start` in a process that an agent has started: jobs come as lines on standard input, and what comes of them goes to
standard output (`lines`)."""

import asyncio
import json
import os
import select
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from .encoding import to_json
from .ending import begin_task
from .home import Home
from .hosts import Host, LoopHost, ThreadHost
from .lines import one_line
from .outcomes import Limits, Outcome
from .progress import report_to
from .runners import HandlerConfig, HandlerKind, Run

CONCURRENCY_VARIABLE = "RUNLANE_TASK_CONCURRENCY"

_LONGEST_LINE = 1 << 40


def serve_task(config: HandlerConfig) -> None:
    """Serves until standard input ends and all jobs have."""
    given, out = _take_streams()
    server = _TaskServer(config, Output(out), given)
    report_to(server.report_progress)
    os.register_at_fork(after_in_child=lambda: report_to(None))
    server.serve()
    report_to(None)


def _take_streams() -> tuple[int, int]:
    """The two ends of the protocol, which is nobody else's: what the handler prints goes to standard error."""
    sys.stdout.flush()
    given, out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return given, out


class Output:
    """Says messages from any thread, each as one line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writing = threading.Lock()
        self._has_room = select.poll()
        self._has_room.register(descriptor, select.POLLOUT)

    def say(self, **fields: bytes) -> None:
        """`fields` are JSON. Waits while the agent does not read. Raises nothing: without an agent the process ends."""
        line = b",".join(b'"%b":%b' % (name.encode(), one_line(value)) for name, value in fields.items())
        view = memoryview(b"{%b}\n" % line)
        try:
            with self._writing:
                while view:
                    view = view[os.write(self._descriptor, view) :]
        except OSError:
            os._exit(1)

    async def say_async(self, **fields: bytes) -> None:
        """See `say`; others run in this loop meanwhile."""
        is_short = sum(map(len, fields.values())) < select.PIPE_BUF - 1024
        if is_short and self._has_room.poll(0) and not self._writing.locked():
            self.say(**fields)
        else:
            await asyncio.to_thread(self.say, **fields)


class _Job:
    """A job of this process, and where its chunks go."""

    def __init__(self, config: HandlerConfig, message: dict[str, Any], output: Output) -> None:
        ours: dict[str, Any] = message.get("runlane") or {}
        self.id = to_json(message["task_id"])
        self.limits = Limits(ours["output_limit"], ours["chunk_limit"]) if ours else Limits()
        own = {"id": message["task_id"], "input": message.get("payload"), "attempt": ours.get("attempt", 1)}
        self.run = Run(config, {**(ours.get("request") or {}), **own}, self, self.limits, ours.get("worker", ""))
        self._output = output

    def send(self, chunk: bytes) -> None:
        self._output.say(task_id=self.id, chunk=chunk)

    async def send_async(self, chunk: bytes) -> None:
        await self._output.say_async(task_id=self.id, chunk=chunk)

    def wake(self) -> None:
        """It never waits for more than the agent."""

    def answer(self, outcome: Outcome) -> dict[str, bytes]:
        """The fields of the message that ends the job."""
        fields = {"task_id": self.id}
        if outcome.refresh:
            fields["refresh"] = b"true"
        if self.run.stopping:
            return fields | {"stopped": b"true"}
        if outcome.field == "error":
            retry = b"true" if outcome.state == "RETRY" else b"false"
            return fields | {"result": b"null", "error": to_json(outcome.value.decode()), "retry": retry}
        return fields | ({"result": outcome.value} if outcome.field else {"streamed": b"true"})


class _TaskServer:
    def __init__(self, config: HandlerConfig, output: Output, given: int) -> None:
        self._config = config
        self._output = output
        self._given = given
        self._home = Home()
        concurrency = int(os.environ.pop(CONCURRENCY_VARIABLE, "1"))
        self._host: Host[_Job] = (
            LoopHost(config, self._on_end, self._on_concurrency, concurrency)
            if config.kind.is_async
            else ThreadHost(config, self._home, self._on_end, self._on_concurrency, concurrency)
        )
        self._jobs: dict[bytes, _Job] = {}
        self._changed = asyncio.Event()  # a job has ended
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self) -> None:
        with open(self._given, "rb", buffering=0) as given:
            self._host.serve(self._serve(given))

    def report_progress(self, job: Mapping[str, Any], progress: Any) -> None:
        """See `progress_update`."""
        running = self._jobs.get(to_json(job["id"]))
        if running is None:
            return
        value = to_json(progress)
        if len(value) > running.limits.chunk:
            raise ValueError(f"the progress has {len(value)} bytes; the limit is {running.limits.chunk} bytes")
        self._output.say(task_id=running.id, progress=value)

    async def _serve(self, given: IO[bytes]) -> None:
        self._home.enter()
        reader = asyncio.StreamReader(_LONGEST_LINE)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), given)
        stops = json.dumps({"stops": self._config.kind is not HandlerKind.PLAIN}).encode()
        self._output.say(status=b'"ready"', runlane=stops)
        async for line in reader:
            self._on_message(json.loads(line))
        while self._jobs:
            self._changed.clear()
            await self._changed.wait()
        await asyncio.gather(*self._tasks)

    def _on_message(self, message: dict[str, Any]) -> None:
        if "cancel" in message:
            job = self._jobs.get(to_json(message["cancel"]))
            if job is not None:
                self._host.stop(job)
            return
        job = _Job(self._config, message, self._output)
        self._jobs[job.id] = job
        self._host.run(job)

    def _on_end(self, job: _Job, outcome: Outcome) -> None:
        begin_task(self._answer(job, outcome), self._tasks)

    async def _answer(self, job: _Job, outcome: Outcome) -> None:
        del self._jobs[job.id]
        await self._output.say_async(**job.answer(outcome))
        self._changed.set()

    def _on_concurrency(self, wanted: int) -> None:
        self._output.say(runlane=json.dumps({"concurrency": wanted}).encode())
