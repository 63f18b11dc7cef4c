"""Runs the gateway under uvicorn, in one process or several."""

import asyncio
import contextlib
import ctypes
import functools
import gc
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import multiprocess

from .access.access import configured_keys
from .access.addresses import Addresses
from .access.audit import Audit
from .access.keys import TENANT
from .access.limits import limits_of
from .access.stored_keys import StoredKeys
from .addresses import Guard
from .app import App
from .children import die_with
from .engine.batching import Batcher
from .engine.endpoints import ID
from .engine.keys import id_of, tenant_of
from .errors import StartupError
from .http import CONNECTION
from .settings import Settings
from .store import open_store

SECONDS_TO_DRAIN = 30

# Of Linux' <linux/tcp.h>: states, and `struct tcp_info`, which begins with eight bytes and five numbers of 32 bits.
TCP_ESTABLISHED = 1
TCP_CLOSE = 7

# Of Linux' <asm/socket.h> and <linux/bpf_common.h>.
SO_ATTACH_FILTER = 26
BPF_RET = 0x06

FROM_A_PROXY = {b"forwarded", b"via", b"x-forwarded-for"}
"""Headers that say that the client is a proxy."""

SECONDS_TO_READ = 0.25
"""A reset that comes later says nothing of whether an answer was read."""

SECONDS_FOR_LAST_REQUESTS = 0.2
"""What a client had sent when the server began to end is answered if it arrives within so long."""


MOST_GATHERED = 65536
"""Bytes; to copy more than that takes longer than to send it by itself."""


class _Gathering:
    """A transport that sends what is written in one turn of the event loop together. uvicorn writes an answer's headers
    and its body each by itself: a system call more for us, and a wake-up more for the client."""

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


class Protocol(HttpToolsProtocol):
    """uvicorn's, but a connection without a request under way is not cut off while one may be on its way: the client
    could not know whether it was executed. And an answer that is not large leaves in one piece."""

    _ending = False
    _is_undelivered = False
    _on_undelivered: Callable[[], None] | None = None
    _answered_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Of asyncio: a client is there."""
        super().connection_made(cast(asyncio.Transport, _Gathering(transport, self.loop)))

    def eof_received(self) -> None:
        """Of asyncio: the client has closed its end. What it had not acknowledged by then will not be read."""
        state, unacknowledged = self._tcp_info()
        self._is_undelivered = state == TCP_CLOSE or unacknowledged > 0 or self._holds_data
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio: the client is gone. A pipe breaks when it had closed before."""
        undelivered = self._is_undelivered or self._holds_data or isinstance(exc, BrokenPipeError)
        undelivered = undelivered or (isinstance(exc, ConnectionResetError) and self._reset_means_unread)
        super().connection_lost(exc)
        if undelivered and self._on_undelivered is not None:
            self._on_undelivered()

    def expect_reading(self, on_undelivered: Callable[[], None]) -> None:
        """Of `Connection`. The client may have closed its end before the event loop comes to notice."""
        if self._tcp_info()[0] == TCP_ESTABLISHED:
            self._on_undelivered, self._answered_at = on_undelivered, self.loop.time()
        else:
            on_undelivered()

    def abort(self) -> None:
        """Of `Connection`."""
        self.transport.abort()

    @property
    def _holds_data(self) -> bool:
        return cast(_Gathering, self.transport).holds_data

    @property
    def _reset_means_unread(self) -> bool:
        """A client that closes before it has read all resets the connection. Proxies reset it for less."""
        is_proxy = FROM_A_PROXY & {name for name, _ in self.headers or ()}
        return not is_proxy and self.loop.time() - self._answered_at < SECONDS_TO_READ

    def _tcp_info(self) -> tuple[int, int]:
        """The state of the connection, and the number of packets on their way to the client."""
        if self.transport.is_closing():
            return TCP_CLOSE, 0
        try:
            info = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
            return info[0], int.from_bytes(info[24:28], sys.byteorder)
        except (AttributeError, OSError):  # not Linux, or not TCP
            return TCP_ESTABLISHED, 0

    def shutdown(self) -> None:
        """Of uvicorn: the server ends."""
        self._ending = True
        if self.cycle is not None:
            self.cycle.keep_alive = False
        self.loop.call_later(SECONDS_FOR_LAST_REQUESTS, super().shutdown)

    def on_headers_complete(self) -> None:
        """Of httptools: a request begins."""
        super().on_headers_complete()
        self._on_undelivered = None  # a client that asks again has read the last answer
        cast(dict[str, Any], self.scope)[CONNECTION] = self
        if self._ending:
            self.cycle.keep_alive = False


class Server(uvicorn.Server):
    """uvicorn's, but connections that nobody has accepted yet are, before the listener is closed, which resets them."""

    shares_listeners = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Of uvicorn: the server ends."""
        if not self.shares_listeners:
            for listener in sockets or ():
                _let_nobody_in(listener)
        waiting = [connection for listener in sockets or () for connection in _waiting_at(listener)]
        for server in self.servers:
            server.close()
        for connection in waiting:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
        await super().shutdown(sockets)

    def _make_protocol(self) -> Protocol:
        return Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


class _Process(multiprocess.Process):
    """uvicorn's, with our server in it; and it ends with its parent, lest it keeps the address for ever."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        self._parent = os.getpid()
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Of uvicorn: what the process does."""
        die_with(self._parent, signal.SIGTERM)
        super().target(sockets)

    @property
    def server(self) -> Server:
        """The server of the process."""
        if self._server is None:
            self._server = Server(self.config)
            self._server.shares_listeners = True
        return cast(Server, self._server)


class _Processes(multiprocess.Multiprocess):
    """uvicorn's, but when it ends nobody can connect any more: as long as it kept the listener open, connections waited
    there for as long as the processes took to end, and were then reset."""

    def terminate_all(self) -> None:
        """Of uvicorn: the end begins."""
        for listener in self.sockets:
            _let_nobody_in(listener)
            listener.close()
        super().terminate_all()


def _let_nobody_in(listener: socket.socket) -> None:
    """From now on, whoever wants to connect hears nothing, and tries again until the listener is closed. A connection
    that came between the last `accept` and the `close` would be reset, with the request that was sent on it.

    By a packet filter that lets nothing through: socket(7), SO_ATTACH_FILTER. Elsewhere than on Linux, nothing is done.
    """
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(drop_all))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


multiprocess.Process = _Process  # type: ignore[misc]  # there is no other way to say which


def _waiting_at(listener: socket.socket) -> Iterator[socket.socket]:
    with contextlib.suppress(OSError):  # there are no more
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


def listen(settings: Settings) -> socket.socket:
    """Takes the address.

    Raises:
        StartupError: it is in use, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
    listener.set_inheritable(True)
    return listener


def configuration(app: object, settings: Settings, seconds_to_drain: int) -> uvicorn.Config:
    """How we run uvicorn. `app`: an ASGI app, or a function that makes one."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        factory=not isinstance(app, App),
        workers=settings.processes,
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=seconds_to_drain,
    )


def make_app(settings: Settings) -> App:
    """The app for a process of its own. What is loaded by now stays, so the garbage collector need not look at it; and
    with its usual limits it runs for every few requests under way, and takes them for long-lived."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    return App(settings)


def serve(settings: Settings) -> None:
    """Serves until told to end.

    Raises:
        StartupError: no keys, a store that cannot be used, an address that cannot be taken.
    """
    check(settings)
    listener = listen(settings)
    print(f"serving http://{settings.host}:{listener.getsockname()[1]}", flush=True)
    factory = functools.partial(make_app, settings)
    config = configuration(factory, settings, SECONDS_TO_DRAIN)
    if settings.processes > 1:
        _Processes(config, sockets=[listener]).run()
    else:
        with contextlib.suppress(KeyboardInterrupt):  # raised again after the server has ended in order
            Server(config).run(sockets=[listener])


def check(settings: Settings) -> None:
    """Tries everything that could fail later in each process, once and with one clear line.

    Raises:
        StartupError: says what is wrong and what to do.
    """
    if not settings.redis_url:
        raise StartupError("no store: set RUNLANE_REDIS_URL or --redis; for development use `runlane dev HANDLER.py`")
    for id in settings.endpoints:
        if not ID.fullmatch(id_of(id)) or not TENANT.fullmatch(tenant_of(id)):
            raise StartupError(f"{id!r} cannot be an endpoint's id: 1 to 63 letters, digits, '-' or '_'")
    is_open = settings.insecure or bool(configured_keys(settings))
    limits_of(settings.rate_limits)
    Audit(settings.audit_log, Addresses(settings.trusted_proxies))
    Guard(settings.outbound_allow)

    async def try_store() -> None:
        store = await open_store(settings.redis_url)
        batcher = Batcher(store)
        if not is_open and not await StoredKeys(batcher).are_there_any():
            raise StartupError(
                "no API keys: make one at the store with `runlane key create --tenant NAME --scopes …`, or set "
                "RUNLANE_API_KEYS (api_keys in the settings file), or --insecure to serve without"
            )
        await batcher.close()
        await store.close()

    asyncio.run(try_store())
