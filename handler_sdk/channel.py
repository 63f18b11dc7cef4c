"""The handler's process's end of the socket to its worker."""

import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Coroutine, Iterator
from typing import Any, NoReturn

from .frames import READ_AT_ONCE, Frame, FrameBuffer, Kind, encode_frame


class Channel:
    """Says frames from any thread; reads them in one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._pending = b""
        self._buffer = FrameBuffer()

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Raises nothing: when the worker is gone, the process is about to end anyway."""
        self.add(kind, payload)
        self.flush()

    def add(self, kind: Kind, payload: bytes = b"") -> None:
        """Has a frame sent with the next one, or by `flush`."""
        with self._sending:
            self._pending += encode_frame(kind, payload)

    def flush(self) -> None:
        """Sends what waits."""
        try:
            with self._sending:
                pending, self._pending = self._pending, b""
                self._connection.sendall(pending)
        except OSError:
            end_with_worker()

    def fileno(self) -> int:
        """For whoever waits until there is something to read."""
        return self._connection.fileno()

    def read(self) -> Iterator[Frame]:
        """What the worker says; waits until it says something."""
        try:
            data = self._connection.recv(READ_AT_ONCE)
        except OSError:
            data = b""
        return self._buffer.feed(data)

    def watch(self) -> None:
        """Waits until the worker is gone, and ends the process."""
        hung_up = select.poll()
        hung_up.register(self._connection, 0)
        hung_up.poll()
        end_with_worker()


async def watched(work: Coroutine[Any, Any, None]) -> None:
    """Runs what nobody waits for: were it to fail unseen, a job would hang."""
    try:
        await work
    except Exception:
        end_after_fault()


def end_after_fault() -> NoReturn:
    """Ends this process with the traceback of the exception that is being handled."""
    print("runlane: the handler's process has a fault and ends", file=sys.stderr)
    traceback.print_exc()
    end_with_worker()


def end_with_worker() -> NoReturn:
    """Ends this process, and what it has started: the worker is gone, or would not be heard any more."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
