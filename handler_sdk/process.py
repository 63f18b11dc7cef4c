"""The worker's side of the process that runs the handler."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .entry import SOCKET_VARIABLE, WORKER_VARIABLE
from .frames import READ_AT_ONCE, FrameBuffer, Kind, encode_frame
from .output import Output

OnFrame = Callable[[Kind, bytes], None]

# What the process says is heard within this time.
READ_SECONDS = 0.01

# After its end, what it said and printed is waited for so long: a process that left the group may hold on to it.
SECONDS_TO_HEAR = 1.0

_OUR_VARIABLES = ("RUNLANE_", "RUNQY_")
_SECRET_WORDS = ("KEY", "SECRET", "PASSWORD", "TOKEN", "STORE", "REDIS")


@dataclass(frozen=True)
class Program:
    """What the handler's process runs.

    name: for people. arguments: of Python. given: what its standard input holds, for what is not to be seen in an
    environment or on a command line.
    """

    name: str
    arguments: tuple[str, ...]
    given: bytes = field(default=b"", repr=False)

    @classmethod
    def of_handler(cls, path: str, arguments: list[str]) -> "Program":
        """The handler file at `path`, which gets `arguments`."""
        return cls(f"handler {path}", ("-m", "handler_sdk", path, *arguments))


class NoProgramError(Exception):
    """There is nothing to run; the text says why, for people."""


class HandlerProcess:
    """One process, from its start to its end."""

    def __init__(
        self, process: Process, transport: asyncio.Transport, frames: "_Frames", printed: asyncio.Event
    ) -> None:
        self._process = process
        self._transport = transport
        self._frames = frames
        self._printed = printed
        self._killed_because = ""

    @classmethod
    async def start(cls, program: Program, on_frame: OnFrame, output: Output | None = None) -> "HandlerProcess":
        """Runs the program in a process group of its own; `on_frame` gets what it says, `output` what it prints, which
        else goes where this process's own output does."""
        ours, theirs = socket.socketpair()
        frames = _Frames(on_frame)
        with theirs, _Pipes(output) as pipes:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *program.arguments,
                stdin=PIPE if program.given else DEVNULL,
                stdout=pipes.stdout,
                stderr=pipes.stderr,
                pass_fds=[theirs.fileno()],
                process_group=0,
                env=environment_for(dict(os.environ), theirs.fileno()),
            )
        if process.stdin is not None:
            process.stdin.write(program.given)
            process.stdin.close()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: frames, sock=ours)
        return cls(process, transport, frames, pipes.ended)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        return bool(self._killed_because)

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        if not self._transport.is_closing():
            self._transport.write(encode_frame(kind, payload))

    def kill(self, because: str) -> None:
        """Ends the process and what it started, by force."""
        if self._process.returncode is None:
            self._killed_because = self._killed_because or because
            self._kill_group()

    async def wait(self) -> str:
        """Waits for the end of the process and all that it said; returns how it ended."""
        status = await self._process.wait()
        self._kill_group()
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS_TO_HEAR):
                await self._frames.ended.wait()
                await self._printed.wait()
        self._transport.close()
        return self._killed_because or describe_exit("the handler process", status)

    async def end(self, grace: float) -> None:
        """Lets the process end by itself, for `grace` seconds."""
        self.send(Kind.EXIT)
        try:
            await asyncio.wait_for(self._process.wait(), grace)
        except TimeoutError:
            self.kill("the handler process did not end when told to")
            await self._process.wait()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class _Pipes:
    """Where a process is to print to, and how this is told to its output once it is started.

    stdout, stderr: for the process; None for those of this one. ended: set when all was read.
    """

    def __init__(self, output: Output | None) -> None:
        self.stdout: int | None = None
        self.stderr: int | None = None
        self.ended = asyncio.Event()
        self._output = output

    def __enter__(self) -> "_Pipes":
        if self._output is None:
            self.ended.set()
            return self
        stdout, self.stdout = os.pipe()
        stderr, self.stderr = os.pipe()
        loop = asyncio.get_running_loop()

        def end() -> None:
            with suppress(RuntimeError):  # the loop is no more
                loop.call_soon_threadsafe(self.ended.set)

        self._output.copy(stdout, stderr, end)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                os.close(pipe)


class _Frames(asyncio.BufferedProtocol):
    """What the process says, read at intervals: to wake another process costs one as much as all else that it does for
    a short job."""

    def __init__(self, on_frame: OnFrame) -> None:
        self.ended = asyncio.Event()
        self._on_frame = on_frame
        self._read = memoryview(bytearray(READ_AT_ONCE))
        self._frames = FrameBuffer()

    def get_buffer(self, _hint: int) -> memoryview:
        return self._read

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def buffer_updated(self, count: int) -> None:
        for kind, payload in self._frames.feed(self._read[:count]):
            self._on_frame(kind, payload)
        if count < len(self._read):
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(READ_SECONDS, self._transport.resume_reading)

    def connection_lost(self, _error: Exception | None) -> None:
        self.ended.set()


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the credentials of the worker, and of the agent that deploys for it."""
    return {
        name: value
        for name, value in environment.items()
        if not (name.startswith(_OUR_VARIABLES) and any(word in name for word in _SECRET_WORDS))
    }


def environment_for(environment: dict[str, str], descriptor: int) -> dict[str, str]:
    """The environment of the handler's process: the worker's, without the worker's credentials."""
    kept = without_secrets(environment)
    kept[SOCKET_VARIABLE] = str(descriptor)
    kept[WORKER_VARIABLE] = str(os.getpid())
    # What a handler prints would be lost with a process that is killed.
    kept.setdefault("PYTHONUNBUFFERED", "1")
    return kept


def describe_exit(name: str, status: int) -> str:
    """How a process ended, for people."""
    if status >= 0:
        return f"{name} exited with status {status}"
    try:
        by = signal.Signals(-status).name
    except ValueError:
        by = "unknown"
    return f"{name} was killed by signal {-status} ({by})"
