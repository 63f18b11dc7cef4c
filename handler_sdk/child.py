"""The process that imports the author's file and runs its handler.

It knows no store and no gateway: jobs come, and chunks and results go, as frames over a socket to its worker. Whatever
happens here, a thread ends the process when the worker is gone, even while a model is loading.
"""

import ctypes
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

from .encoding import to_json
from .entry import PROCESS_VARIABLE, SOCKET_VARIABLE, WORKER_VARIABLE
from .frames import READ_AT_ONCE, FrameBuffer, Kind, encode_frame
from .hosts import Host, Job, LoopHost, ThreadHost
from .outcomes import Limits, failed
from .progress import report_to
from .runners import HandlerConfig

_PR_SET_PDEATHSIG = 1


class Channel:
    """The process's end of the socket to its worker."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._buffer = FrameBuffer()
        self._host: Host | None = None
        self._jobs: dict[int, Job] = {}
        self._numbers: dict[str, int] = {}
        self._limits = Limits()
        self._worker = ""

    def send(self, kind: Kind, number: int = 0, payload: bytes = b"") -> None:
        """Raises nothing: when the worker is gone, the process is about to end anyway."""
        try:
            with self._sending:
                self._connection.sendall(encode_frame(kind, number, payload))
        except OSError:
            _end_with_worker()

    def serve(self, config: HandlerConfig) -> None:
        """Runs jobs until the worker says that it is enough."""
        host = LoopHost(config, self.send) if config.kind.is_async else ThreadHost(config, self.send)
        self._host = host
        report_to(self._report_progress)
        host.serve(self)
        report_to(None)

    @property
    def has_served(self) -> bool:
        return self._host is not None

    @property
    def _serving(self) -> Host:
        assert self._host is not None  # noqa: S101  # it is the host who reads
        return self._host

    def end_with_worker(self) -> None:
        """Waits until the other end of the socket is closed."""
        hung_up = select.poll()
        hung_up.register(self._connection, 0)
        hung_up.poll()
        _end_with_worker()

    def fileno(self) -> int:
        """For whoever waits until there is something to read."""
        return self._connection.fileno()

    def read(self) -> None:
        """Does what the worker says; waits until it says something."""
        try:
            for kind, number, payload in self._buffer.feed(self._receive()):
                self._handle(kind, number, payload)
        except BaseException:
            # Nobody would hear the worker any more.
            traceback.print_exc()
            _end_with_worker()

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(READ_AT_ONCE)
        except OSError:
            return b""

    def _handle(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.SETTINGS:
            settings = json.loads(payload)
            self._limits = Limits(settings["output_limit"], settings["chunk_limit"])
            self._worker = settings["worker"]
        elif kind is Kind.RUN:
            self._run(self._serving, number, payload)
        elif kind is Kind.EXIT:
            self._serving.end()
        elif (job := self._jobs.get(number)) is None:
            pass  # it has ended meanwhile
        elif kind is Kind.STOP:
            self._serving.stop(job)
        elif kind is Kind.CREDIT:
            job.window.give(int(payload))

    def _run(self, host: Host, number: int, payload: bytes) -> None:
        try:
            told = json.loads(payload)
        except (ValueError, RecursionError) as error:
            self.send(Kind.DONE, number, failed(f"the job's input cannot be read in Python: {error}").encode())
            return
        fields = {**(told["request"] or {}), "id": told["id"], "input": told["input"], "attempt": told["attempt"]}
        job = Job(number, fields, self._limits, self._worker, self.send, self._forget)
        self._jobs[number] = job
        self._numbers[job.id] = number
        host.run(job)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.number, None)
        if self._numbers.get(job.id) == job.number:
            del self._numbers[job.id]

    def _report_progress(self, job: Mapping[str, Any], progress: Any) -> None:
        value = to_json(progress)
        if len(value) > self._limits.chunk:
            raise ValueError(f"the progress has {len(value)} bytes; the limit is {self._limits.chunk} bytes")
        number = self._numbers.get(job["id"])
        if number is not None:
            self.send(Kind.PROGRESS, number, value)


_channel: Channel | None = None


def serve(config: HandlerConfig) -> None:
    """What `start` does in the handler's process."""
    assert _channel is not None  # noqa: S101
    _channel.serve(config)


def main(path: str, arguments: list[str]) -> int:
    """Runs the file as `python path argument…` would, in a process that a worker started."""
    global _channel
    connection = socket.socket(fileno=int(os.environ.pop(SOCKET_VARIABLE)))
    connection.set_inheritable(False)
    os.environ[PROCESS_VARIABLE] = str(os.getpid())
    channel = _channel = Channel(connection)
    _die_with_worker(int(os.environ.pop(WORKER_VARIABLE)))
    # Whoever signals the whole group or container means the worker, which then ends this process in its own time. A
    # handler that does nothing, unlike an ignored signal, is not passed on to programs that the author starts.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=channel.end_with_worker, name="runlane-watch", daemon=True).start()
    return _run_file(channel, path, arguments)


def _run_file(channel: Channel, path: str, arguments: list[str]) -> int:
    sys.argv = [path, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(path))
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as error:
        if channel.has_served:
            raise
        channel.send(Kind.BROKEN, 0, f"it exited with status {error.code} before handler_sdk.start()".encode())
        return 1
    except BaseException as error:
        _print_traceback(error)
        channel.send(Kind.BROKEN, 0, f"{type(error).__name__}: {error}".encode(errors="replace"))
        return 1
    if not channel.has_served:
        channel.send(Kind.BROKEN, 0, b"it ended without a call of handler_sdk.start()")
        return 1
    return 0


def _print_traceback(error: BaseException) -> None:
    part = error.__traceback__
    while part is not None and (
        part.tb_frame.f_code.co_filename == __file__ or "runpy" in part.tb_frame.f_code.co_filename
    ):
        part = part.tb_next
    traceback.print_exception(type(error), error, part or error.__traceback__, file=sys.stderr)


def _die_with_worker(worker: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker:
        os._exit(1)


def _end_with_worker() -> NoReturn:
    """The worker is gone: so is this process, and what it has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
