"""Whether an answer was read: what the kernel knows of a connection."""

import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Of Linux' <linux/tcp.h>: states, and `struct tcp_info`, which begins with the state.
TCP_ESTABLISHED = 1
TCP_CLOSE = 7
BYTES_ACKED = 120
"""Where in it the number of bytes stands that the other side has acknowledged (since Linux 4.1)."""

FROM_A_PROXY = {b"forwarded", b"via", b"x-forwarded-for"}
"""Headers that say that the client is a proxy."""

SECONDS_TO_READ = 0.25
"""A reset that comes later says nothing of whether an answer was read."""

MOST_GATHERED = 65536
"""Bytes; to copy more than that takes longer than to send it by itself."""


class Gathering:
    """A transport that sends what is written in one turn of the event loop together. An answer's headers and its body
    are written each by itself: a system call more for us, and a wake-up more for the client."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._gathered = b""

    def write(self, data: bytes) -> None:
        if len(self._gathered) + len(data) > MOST_GATHERED:
            self._send()
            self._transport.write(data)
            return
        if not self._gathered:
            self._loop.call_soon(self._send)
        self._gathered += data

    def write_eof(self) -> None:
        self._send()
        self._transport.write_eof()

    def flush(self) -> None:
        self._send()

    def close(self) -> None:
        self._send()
        self._transport.close()

    @property
    def holds_data(self) -> bool:
        return bool(self._gathered) or self._transport.get_write_buffer_size() > 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, b""
            if not self._transport.is_closing():  # the client has gone away
                self._transport.write(gathered)


class Delivering(HttpToolsProtocol):
    """uvicorn's protocol, with the `Connection` of what was not read; and an answer that is not large leaves in one
    piece."""

    transport: Gathering  # type: ignore[assignment]
    _has_ended = False
    _is_undelivered = False
    _on_undelivered: Callable[[], None] | None = None
    _on_hang_up: Callable[[], None] | None = None
    _answered_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Of asyncio: a client is there."""
        super().connection_made(cast(asyncio.Transport, Gathering(transport, self.loop)))

    def eof_received(self) -> None:
        """Of asyncio: the client has closed its end. What it had not acknowledged by then will not be read, and under
        TLS nothing is sent any more."""
        self._has_ended = True
        state, unacknowledged = self._tcp_info()
        self._is_undelivered = state == TCP_CLOSE or unacknowledged > 0 or self._holds_data or self._is_under_way
        if state == TCP_ESTABLISHED and self.scheme == "https" and self._on_undelivered is not None:
            self._look_for_reset()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio: the client is gone. A pipe breaks when it had closed before."""
        undelivered = self._is_undelivered or self._holds_data or isinstance(exc, BrokenPipeError)
        undelivered = undelivered or (isinstance(exc, ConnectionResetError) and self._reset_means_unread)
        super().connection_lost(exc)
        if undelivered:
            self._say_undelivered()
        if self._on_hang_up is not None:
            self._on_hang_up()
            self._on_hang_up = None

    def expect_reading(self, on_undelivered: Callable[[], None]) -> None:
        """Of `Connection`. The client may have closed its end before the event loop comes to notice."""
        if not self._has_ended and self._tcp_info()[0] == TCP_ESTABLISHED:
            self._on_undelivered, self._answered_at = on_undelivered, self.loop.time()
        else:
            on_undelivered()

    def expect_hang_up(self, on_hang_up: Callable[[], None]) -> None:
        """Of `Connection`. The client may have gone away before anybody asked."""
        if self._has_ended or self.transport.is_closing():
            on_hang_up()
        else:
            self._on_hang_up = on_hang_up

    def look_for_hang_up(self) -> None:
        """Of a client from whom nothing is read for now, the event loop does not tell that it has gone away."""
        if self._tcp_info()[0] != TCP_ESTABLISHED:
            self.abort()

    def abort(self) -> None:
        """Of `Connection`."""
        self.transport.abort()

    def acknowledged(self) -> int | None:
        """Of `Reader`."""
        try:
            connection = self.transport.get_extra_info("socket")
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED + 8)
            return cast(int, struct.unpack_from("Q", info, BYTES_ACKED)[0])
        except (AttributeError, OSError, struct.error):  # not Linux, or not TCP
            return None

    def expects_nothing(self) -> None:
        """A client that asks again has read the last answer."""
        self._on_undelivered = self._on_hang_up = None

    @property
    def _holds_data(self) -> bool:
        return self.transport.holds_data

    @property
    def _is_read(self) -> bool:
        """Whether the client has all that was written."""
        self.transport.flush()
        return not self._holds_data and self._tcp_info()[1] == 0

    @property
    def _is_under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _reset_means_unread(self) -> bool:
        """A client that closes before it has read all resets the connection. Proxies reset it for less."""
        is_proxy = FROM_A_PROXY & {name for name, _ in self.headers or ()}
        return not is_proxy and self.loop.time() - self._answered_at < SECONDS_TO_READ

    def _say_undelivered(self) -> None:
        if self._on_undelivered is not None:
            on_undelivered, self._on_undelivered = self._on_undelivered, None
            on_undelivered()

    def _look_for_reset(self) -> None:
        """A client of TLS says goodbye before it closes, and only then, when the connection is as good as closed here,
        comes the reset that says that it has not read all. A descriptor of our own gets to see it. (A reset behind the
        client's regular end, for our own goodbye, is another error: EPIPE.) One that reads on while it says goodbye
        cannot be told from one that has read all."""
        if not self._reset_means_unread:
            return
        watched = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))

        def look() -> None:
            with watched:
                if watched.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET:
                    self._say_undelivered()

        self.loop.call_later(SECONDS_TO_READ, look)

    def _tcp_info(self) -> tuple[int, int]:
        """The state of the connection, and the number of bytes that the client has not acknowledged: under TLS, this
        and not the transport's buffer says what is still on its way (tcp(7), SIOCOUTQ)."""
        if self.transport.is_closing():
            return TCP_CLOSE, 0
        try:
            connection = self.transport.get_extra_info("socket")
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
            waiting = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
            return info[0], struct.unpack("i", waiting)[0]
        except (AttributeError, OSError):  # not Linux, or not TCP
            return TCP_ESTABLISHED, 0
