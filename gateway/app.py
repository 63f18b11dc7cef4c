"""Puts the ASGI app together; the only module that knows all the others."""

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Any

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from .access.credentials import Credentials
from .access.keys import ApiKeys, WorkerKeys
from .access.local import check_local, is_loopback
from .access.webhook_secrets import WebhookSecrets
from .access.workers import WorkerAccess
from .dialects.manage import Manage
from .dialects.openai import OpenAI
from .dialects.openai_errors import error_reply
from .dialects.runpod import RunPod
from .dialects.webhooks import WebhookLog
from .dialects.worker_calls import WorkerCalls
from .dialects.workers import Workers
from .engine.deliveries import Deliveries
from .engine.endpoints import Config, Endpoints
from .engine.engine import Engine
from .engine.polls import Polls
from .engine.reports import Reports
from .engine.upkeep import Upkeep
from .errors import Conflict
from .http import Call, Check, Endpoint, Operation
from .outbound import Outbound
from .settings import Settings
from .store import open_store
from .webhooks import Webhooks

logger = logging.getLogger(__name__)


class App:
    """The gateway as an ASGI app. It connects at the start of its lifespan, in the event loop that serves it.

    The operations on jobs are found in a table, by the parts of their path, before anything else; all the rest goes
    through Starlette's router. Its middleware and its search through the routes took a quarter of the time of a `/run`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api_keys = ApiKeys(settings.api_keys, settings.insecure)
        self._local = settings.insecure and is_loopback(settings.host)
        self._worker_keys = WorkerKeys(settings.worker_keys, settings.insecure)
        self._drain: Callable[[], object] = _nothing
        self._operations: dict[tuple[str, int], Endpoint] = {}
        self._router = Router(default=_not_found, lifespan=self._lifespan, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection."""
        if scope["type"] == "http":
            parts = scope["path"].split("/")
            if 4 <= len(parts) <= 6 and parts[1] == "v2" and (found := self._operations.get((parts[3], len(parts)))):
                scope["path_params"] = {
                    "endpoint": parts[2],
                    "worker": parts[min(4, len(parts) - 1)],
                    "job": parts[-1],
                }
                await found(scope, receive, send)
                return
        await self._router(scope, receive, send)

    def drain(self) -> None:
        """Has all requests that wait answer with what they have; for the moment before the server stops. Any thread."""
        self._drain()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        store = await open_store(self._settings.redis_url)
        engine = Engine(store)
        endpoints = Endpoints(store, engine.batcher)
        credentials = Credentials(store, self._settings.worker_redis_url)
        outbound = Outbound(self._settings.outbound_allow)
        deliveries, secrets = Deliveries(engine.batcher), WebhookSecrets(engine.batcher)
        webhooks = Webhooks(engine, deliveries, secrets, outbound, self._settings)
        upkeep = Upkeep(store, engine.batcher, engine.wakeups.process, credentials.revoke, webhooks.due)
        for id in self._settings.endpoints:
            await ensure_endpoint(endpoints, id)
        polls = Polls(engine.batcher, engine.wakeups, engine.background)
        access = WorkerAccess(endpoints, self._worker_keys)
        self._serve(RunPod(engine, outbound, self._settings).operations(), self._check)
        # A worker's key is of one endpoint, so the operations themselves check it.
        calls = WorkerCalls(polls, Reports(engine.batcher, engine.background), access, self._settings)
        workers = Workers(engine, credentials, access, self._api_keys, self._settings)
        self._serve(calls.operations() | workers.operations(), self._check_local)
        manage = Manage(endpoints, credentials, outbound, self._settings).operations()
        log = WebhookLog(deliveries, secrets, self._settings).operations()
        self._router.routes.extend(self._routes(engine, manage | log))
        webhooks.start()
        upkeep.start()
        loop = asyncio.get_running_loop()
        self._drain = functools.partial(loop.call_soon_threadsafe, engine.wakeups.drain)
        with _on_termination(self.drain):
            yield
        self._drain = _nothing
        await upkeep.stop()
        await webhooks.stop()
        await outbound.close()
        await engine.close()
        await store.close()

    def _serve(self, operations: dict[str, tuple[Operation, tuple[str, ...]]], check: Check) -> None:
        for path, (operation, methods) in operations.items():
            _, name, *rest = path.split("/")
            self._operations[name, 4 + len(rest)] = Endpoint(operation, methods, check)

    def _routes(self, engine: Engine, operations: dict[tuple[str, str], Operation]) -> list[BaseRoute]:
        by_path: dict[str, dict[str, Operation]] = {}
        for (path, method), operation in operations.items():
            by_path.setdefault(path, {})[method] = operation
        routes: list[BaseRoute] = [
            Route(f"/v2/{{endpoint}}{path}", Endpoint(operation, methods, self._check, error_reply))
            for path, (operation, methods) in OpenAI(engine, self._settings).operations().items()
        ]
        return routes + [
            Route(path, Endpoint(_by_method(methods), tuple(methods), self._check)) for path, methods in by_path.items()
        ]

    def _check_local(self, call: Call) -> None:
        if self._local:
            check_local(call.header(b"host"), call.header(b"origin"))

    def _check(self, call: Call) -> None:
        self._check_local(call)
        self._api_keys.check(call.header(b"authorization"))


async def ensure_endpoint(endpoints: Endpoints, id: str) -> None:
    """Makes the endpoint unless it exists."""
    with contextlib.suppress(Conflict):
        await endpoints.create(id, Config(name=id))
        logger.info("created endpoint %s", id)


def _nothing() -> None:
    """Before the app serves, and after."""


def _by_method(operations: dict[str, Operation]) -> Operation:
    async def operation(call: Call) -> Any:
        return await operations[call.method](call)

    return operation


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"error": "not found"}, 404)(scope, receive, send)


@contextlib.contextmanager
def _on_termination(callback: Callable[[], None]) -> Any:
    """Calls back when the server is told to end, before it waits for the requests under way: uvicorn ends the lifespan
    only after them."""
    previous: dict[signal.Signals, Any] = {}

    def handler(number: int, frame: FrameType | None) -> None:
        callback()
        before = previous[signal.Signals(number)]
        if callable(before):
            before(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not in the main thread: nobody sends us signals
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
