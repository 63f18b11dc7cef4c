"""Runs the gateway under uvicorn, in one process or several."""

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from . import logs, memory
from .access.access import configured_keys
from .access.addresses import Addresses
from .access.audit import Audit
from .access.keys import TENANT
from .access.limits import limits_of
from .access.stored_keys import StoredKeys
from .addresses import Guard
from .app import App
from .browsers import check_origins, for_browsers
from .children import die_with
from .engine.batching import Batcher
from .engine.endpoints import ID
from .engine.keys import id_of, tenant_of
from .engine.tasks import end
from .errors import StartupError
from .exchange import Defaults
from .protocol import Configuration, Protocol, State
from .settings import Settings
from .store import open_store
from .tls import Certificate, open_certificate
from .vault_keys import MasterKeys

SECONDS_TO_DRAIN = 30

# Of Linux' <asm/socket.h>, <linux/bpf_common.h> and <linux/tcp.h>.
SO_ATTACH_FILTER = 26
BPF_LOAD_BYTE = 0x30
BPF_JUMP_IF_SET = 0x45
BPF_RETURN = 0x06
BPF_WHOLE_PACKET = 0xFFFFFFFF
OFFSET_OF_TCP_FLAGS = 13
TCP_SYN = 0x02

SECONDS_TO_CONNECT = 0.1
"""Who was about to connect when the server began to end is let in if that is done within so long."""

SECONDS_TO_SHAKE_HANDS = 1.0
"""What is left of TLS handshakes when the server ends."""

SECONDS_TO_SAY_GOODBYE = 2.0
"""A client of TLS is waited for so long to confirm the end; idle ones seldom do."""

SECONDS_TO_READ_LAST = 10.0
"""When the server ends, it waits no longer for clients that read nothing."""

TICKS_BETWEEN_SWEEPS = 10
TICKS_BETWEEN_LOOKS = 20
"""A tick of uvicorn is 0.1 s."""

SECURITY_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cache-control", "no-store"),
]
UNDER_TLS = ("strict-transport-security", "max-age=31536000")


class Server(uvicorn.Server):
    """uvicorn's, but connections that nobody has accepted yet are, before the listener is closed, which resets them."""

    shares_listeners = False
    config: Configuration
    server_state: State

    def __init__(self, config: Configuration) -> None:
        super().__init__(config)
        self.server_state = State()
        self._certificate: Certificate | None = None
        self._made: weakref.WeakSet[Protocol] = weakref.WeakSet()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Of uvicorn: the server begins, over listeners that are there."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        settings = self.config.settings
        self._certificate = open_certificate(settings.tls_cert, settings.tls_key)
        await super().on_tick(0)
        self._take_defaults()
        loop = asyncio.get_running_loop()
        if self._certificate and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._certificate.reload)
        self.servers = [
            await loop.create_server(
                self._make_protocol, sock=listener, backlog=self.config.backlog, **self._tls(settings.header_seconds)
            )
            for listener in sockets or ()
        ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Of uvicorn: every 0.1 s, until the server ends."""
        ends = await super().on_tick(counter)
        if counter % TICKS_BETWEEN_SWEEPS == 0:
            self._take_defaults()
            self._end_late(self.config.settings.read_seconds)
        if self._certificate and counter % TICKS_BETWEEN_LOOKS == 0:
            self._certificate.reload()
        return ends

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Of uvicorn: the server ends."""
        self.server_state.is_ending = True
        if not self.shares_listeners:
            for listener in sockets or ():
                _let_nobody_else_in(listener)
        await asyncio.sleep(SECONDS_TO_CONNECT)
        waiting = [connection for listener in sockets or () for connection in _waiting_at(listener)]
        for server in self.servers:
            server.close()
        await asyncio.gather(*map(self._let_in, waiting))
        await self._wait_for_handshakes()
        ending = asyncio.create_task(self._go_on_ending())
        await super().shutdown(sockets)
        await end(ending)

    def _end_late(self, seconds_to_read: float) -> None:
        now = asyncio.get_running_loop().time()
        self.server_state.end_late(now)
        self.server_state.unread.end_stalled(now, seconds_to_read)

    async def _go_on_ending(self) -> None:
        """There are no ticks any more."""
        while True:
            self._end_late(min(self.config.settings.read_seconds, SECONDS_TO_READ_LAST))
            await asyncio.sleep(1)

    def _make_protocol(self) -> Protocol:
        made = Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        if self._certificate:
            self._made.add(made)
        return made

    def _take_defaults(self) -> None:
        self.server_state.defaults = Defaults(self.server_state.default_headers)

    def _tls(self, seconds: float) -> dict[str, Any]:
        """How long a handshake may take, and the end."""
        if self._certificate is None:
            return {}
        return {
            "ssl": self._certificate.context,
            "ssl_handshake_timeout": seconds,
            "ssl_shutdown_timeout": SECONDS_TO_SAY_GOODBYE,
        }

    async def _let_in(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            await loop.connect_accepted_socket(self._make_protocol, connection, **self._tls(SECONDS_TO_SHAKE_HANDS))

    async def _wait_for_handshakes(self) -> None:
        """Only behind its handshake is a connection one of those that are told of the end."""
        until = time.monotonic() + SECONDS_TO_SHAKE_HANDS
        while any(made.transport is None for made in self._made) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class _Process(multiprocess.Process):
    """uvicorn's, with our server in it; and it ends with its parent, lest it keeps the address for ever."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        self._parent = os.getpid()
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Of uvicorn: what the process does."""
        die_with(self._parent, signal.SIGTERM)
        logs.configure(cast(Configuration, self.config).settings.log_level)
        super().target(sockets)

    @property
    def server(self) -> Server:
        """The server of the process."""
        if self._server is None:
            self._server = Server(cast(Configuration, self.config))
            self._server.shares_listeners = True
        return cast(Server, self._server)


class _Processes(multiprocess.Multiprocess):
    """uvicorn's, but when it ends nobody can connect any more: as long as it kept the listener open, connections waited
    there for as long as the processes took to end, and were then reset."""

    config: Configuration

    def terminate_all(self) -> None:
        """Of uvicorn: the end begins."""
        for listener in self.sockets:
            _let_nobody_else_in(listener)
            listener.close()
        super().terminate_all()

    def handle_hup(self) -> None:
        """Of uvicorn: a SIGHUP. Each process looks at the certificate; without one, they are replaced."""
        if not self.config.settings.tls_cert:
            super().handle_hup()
            return
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(cast(int, process.pid), signal.SIGHUP)


def _let_nobody_else_in(listener: socket.socket) -> None:
    """From now on, whoever begins to connect hears nothing, and tries again until the listener is closed. A connection
    that came between the last `accept` and the `close` would be reset, with the request that was sent on it. Who had
    begun before gets in: it counts itself as connected when it has our answer, and may have sent its request.

    By a packet filter that drops the packets with which connections begin: socket(7), SO_ATTACH_FILTER. It sees them
    from their TCP header on. Elsewhere than on Linux, nothing is done.
    """
    instructions = [
        (BPF_LOAD_BYTE, 0, 0, OFFSET_OF_TCP_FLAGS),
        (BPF_JUMP_IF_SET, 0, 1, TCP_SYN),
        (BPF_RETURN, 0, 0, 0),
        (BPF_RETURN, 0, 0, BPF_WHOLE_PACKET),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in instructions))
    program = struct.pack("HP", len(instructions), ctypes.addressof(code))
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


def configuration(app: object, settings: Settings, seconds_to_drain: int) -> Configuration:
    """How we run uvicorn. `app`: an ASGI app, or a function that makes one."""
    return Configuration(
        app,
        settings,
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
        headers=[*SECURITY_HEADERS, UNDER_TLS] if settings.tls_cert else SECURITY_HEADERS,
        timeout_graceful_shutdown=seconds_to_drain,
    )


def make_app(settings: Settings) -> ASGIApp:
    """The app for a process of its own."""
    memory.settle_in()
    return for_browsers(App(settings), settings)


def serve(settings: Settings) -> None:
    """Serves until told to end.

    Raises:
        StartupError: no keys, a store that cannot be used, an address that cannot be taken.
    """
    check(settings)
    listener = listen(settings)
    print(
        f"serving {'https' if settings.tls_cert else 'http'}://{settings.host}:{listener.getsockname()[1]}", flush=True
    )
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
    if not TENANT.fullmatch(settings.queue_files_tenant):
        raise StartupError(f"queue_files_tenant: {settings.queue_files_tenant[:80]!r} cannot be a tenant")
    is_open = settings.insecure or bool(configured_keys(settings))
    limits_of(settings.rate_limits)
    Audit(settings.audit_log, Addresses(settings.trusted_proxies))
    open_certificate(settings.tls_cert, settings.tls_key)
    check_origins(settings.cors_origins)
    Guard(settings.outbound_allow)
    MasterKeys(settings.vault_master_keys)

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
