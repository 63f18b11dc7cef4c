"""The handler's process's end of the socket to its worker."""

import select
import socket
import threading
from collections.abc import Iterator

from .ending import end_with_worker
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
