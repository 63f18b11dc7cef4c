"""Runs the gateway under uvicorn, in one process or several."""

import asyncio
import contextlib
import functools
import gc
import socket

import uvicorn
from uvicorn.supervisors import Multiprocess

from .access.keys import ApiKeys, WorkerKeys
from .app import App
from .engine.endpoints import ID
from .errors import StartupError
from .settings import Settings
from .store import open_store

SECONDS_TO_DRAIN = 30


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
        http="httptools",
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
        Multiprocess(config, sockets=[listener]).run()
    else:
        with contextlib.suppress(KeyboardInterrupt):  # raised again after the server has ended in order
            uvicorn.Server(config).run(sockets=[listener])


def check(settings: Settings) -> None:
    """Tries everything that could fail later in each process, once and with one clear line.

    Raises:
        StartupError: says what is wrong and what to do.
    """
    if not settings.redis_url:
        raise StartupError("no store: set RUNLANE_REDIS_URL or --redis; for development use `runlane dev HANDLER.py`")
    for id in settings.endpoints:
        if not ID.fullmatch(id):
            raise StartupError(f"{id!r} cannot be an endpoint's id: 1 to 63 letters, digits, '-' or '_'")
    ApiKeys(settings.api_keys, settings.insecure)
    WorkerKeys(settings.worker_keys, settings.insecure)

    async def try_store() -> None:
        await (await open_store(settings.redis_url)).close()

    asyncio.run(try_store())
