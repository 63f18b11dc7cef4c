"""Puts the ASGI app together; the only module that knows all the others."""

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Any, NamedTuple

from starlette.responses import JSONResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from .access.access import Access, configured_keys
from .access.addresses import Addresses
from .access.audit import Audit
from .access.credentials import Credentials
from .access.expiry import Expiry
from .access.limits import Limits, limits_of
from .access.local import check_local, is_loopback
from .access.news import News
from .access.revocation import Revocation
from .access.stored_keys import StoredKeys
from .access.webhook_secrets import WebhookSecrets
from .access.worker_users import WorkerUsers
from .access.workers import WorkerAccess
from .api_docs import Documentation
from .dialects.health import Health
from .dialects.keys import Keys
from .dialects.manage import Manage
from .dialects.openai import OpenAI
from .dialects.openai_errors import error_reply as openai_error
from .dialects.runpod import RunPod
from .dialects.runqy_configs import RunqyConfigs
from .dialects.runqy_errors import error_reply as runqy_error
from .dialects.runqy_errors import register_error_reply as register_error
from .dialects.runqy_queues import RunqyQueues
from .dialects.runqy_register import RunqyRegister
from .dialects.runqy_tasks import RunqyTasks
from .dialects.runqy_vaults import RunqyVaults
from .dialects.runqy_workers import RunqyWorkers
from .dialects.webhooks import WebhookLog
from .dialects.worker_calls import WorkerCalls
from .dialects.worker_logs import WorkerLogs
from .dialects.workers import Workers
from .engine.deliveries import Deliveries
from .engine.endpoints import Config, Endpoints
from .engine.engine import Engine
from .engine.polls import Polls
from .engine.reports import Reports
from .engine.telemetry import Telemetry
from .engine.upkeep import Upkeep
from .errors import Conflict
from .http import Answer, ByMethod, Call, Endpoint, Managed, Operation, Served, Shape, error_reply
from .openapi import Route as Documented
from .openapi import document
from .outbound import Outbound
from .queue_loader import QueueLoader
from .queues import Queues
from .settings import Settings
from .store import open_store
from .vault_keys import MasterKeys
from .vaults import Vaults
from .webhooks import Webhooks

logger = logging.getLogger(__name__)


class App:
    """The gateway as an ASGI app. It connects at the start of its lifespan, in the event loop that serves it.

    The operations on jobs are found in a table, by the parts of their path, before anything else, and others whose path
    has no parameters in a second one; all the rest goes through Starlette's router. Its middleware and its search
    through the routes took a quarter of the time of a `/run`, the search a fifth of that of a `/queue/add`.

    `served`: the paths, as Starlette writes them, and the methods of each; `documented`: the operations there, as the
    OpenAPI document is made of them. Both are known when it is connected.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = configured_keys(settings)
        self._master_keys = MasterKeys(settings.vault_master_keys)
        self._is_open = settings.insecure and not self._keys
        self._local = settings.insecure and is_loopback(settings.host)
        self._addresses = Addresses(settings.trusted_proxies)
        self._audit = Audit(settings.audit_log, self._addresses)
        self._limits = {} if self._is_open else limits_of(settings.rate_limits)
        self._drain: Callable[[], object] = _nothing
        self._operations: dict[tuple[str, int], Endpoint] = {}
        self._plain: dict[str, Endpoint] = {}
        self.served: dict[str, tuple[str, ...]] = {}
        self.documented: list[Documented] = []
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
            if (plain := self._plain.get(scope["path"])) is not None:
                scope["path_params"] = {}
                await plain(scope, receive, send)
                return
        await self._router(scope, receive, send)

    def drain(self) -> None:
        """Has all requests that wait answer with what they have; for the moment before the server stops. Any thread."""
        self._drain()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        async with self.connected() as running:
            for id in self._settings.endpoints:
                await ensure_endpoint(running.endpoints, id)
            await running.queue_files.start()
            await running.news.start()
            running.expiry.start()
            running.limits.start()
            running.webhooks.start()
            running.upkeep.start()
            loop = asyncio.get_running_loop()
            self._drain = functools.partial(loop.call_soon_threadsafe, running.drain)
            with _on_termination(self.drain):
                yield
            self._drain = _nothing
            await running.queue_files.stop()
            await running.news.stop()
            await running.expiry.stop()
            await running.limits.stop()
            await running.upkeep.stop()
            await running.webhooks.stop()

    @contextlib.asynccontextmanager
    async def connected(self) -> "AsyncIterator[_Running]":
        """Connects to the store and answers requests, and does nothing by itself."""
        store = await open_store(self._settings.redis_url)
        engine = Engine(store)
        endpoints = Endpoints(store, engine.batcher)
        users = WorkerUsers(Credentials(store, self._settings.worker_redis_url), engine, engine.batcher)
        limits = Limits(self._limits, engine.batcher, engine.wakeups.process)
        access = Access(self._settings, engine.batcher, limits, self._addresses, self._audit)
        workers = WorkerAccess(endpoints, access)
        stored = StoredKeys(engine.batcher)
        revocation = Revocation(stored, users)
        outbound = Outbound(self._settings.outbound_allow)
        deliveries, secrets = Deliveries(engine.batcher), WebhookSecrets(engine.batcher)
        webhooks = Webhooks(engine, deliveries, secrets, outbound, self._settings)
        queue_files = QueueLoader(endpoints, self._settings)
        polls = Polls(engine.batcher, engine.wakeups, engine.background)
        reports = Reports(engine.batcher, engine.background)
        telemetry = Telemetry(engine.batcher)
        logs = WorkerLogs(telemetry)
        for served in (
            RunPod(engine, outbound, self._settings).operations(),
            WorkerCalls(polls, reports, telemetry, workers, self._settings).operations(),
            Workers(engine, users, workers, self._settings).operations(),
        ):
            self._serve(served, access)
        for path, each in OpenAI(engine, self._settings).operations().items():
            path = f"/v2/{{endpoint}}{path}"
            self._router.routes.append(Route(path, self._described(path, each, access, openai_error)))
        self._manage(Manage(endpoints, stored, users, outbound, self._settings).operations(), access)
        self._manage(WebhookLog(deliveries, secrets, self._settings).operations(), access)
        self._manage(Keys(stored, revocation, self._settings).operations(), access)
        vaults = Vaults(engine.batcher, self._master_keys)
        runqy_vaults = RunqyVaults(vaults, self._settings)
        self._manage(runqy_vaults.operations(), access, runqy_error)
        self._manage(runqy_vaults.own_operations(), access)
        # Before `/workers/{id}`, which would take `/workers/queues` for a worker.
        configs = RunqyConfigs(endpoints, queue_files, access, self._settings)
        self._manage(configs.operations(), access, runqy_error)
        register = RunqyRegister(endpoints, vaults, access, self._settings)
        self._manage(register.operations(), access, register_error)
        self._manage(Health(store).operations(), access)
        queues = Queues(endpoints)
        for operations in (
            RunqyTasks(engine, endpoints, queues, access, self._settings).operations(),
            RunqyQueues(engine, endpoints, queues, access).operations(),
        ):
            self._manage(operations, access, runqy_error)
        self._manage(logs.operations(), access)
        self._manage(RunqyWorkers(engine, endpoints, logs).operations(), access, runqy_error)
        if self._settings.api_docs:
            for path, each in Documentation(lambda: document(self.documented)).operations().items():
                self._router.routes.append(Route(path, self._described(path, each, access)))
        try:
            yield _Running(
                engine,
                endpoints,
                limits,
                News(store, engine.batcher, access.blocked.add, access.revoked),
                Expiry(access),
                Upkeep(store, engine.batcher, engine.wakeups.process, users.revoke, webhooks.due, users.end_of_expired),
                webhooks,
                queue_files,
                telemetry,
                vaults,
            )
        finally:
            await telemetry.close()
            await outbound.close()
            await engine.close()
            await store.close()

    def _serve(self, operations: dict[str, Served], access: Access) -> None:
        for path, served in operations.items():
            _, name, *rest = path.split("/")
            self._operations[name, 4 + len(rest)] = self._described(f"/v2/{{endpoint}}{path}", served, access)

    def _described(self, path: str, served: Served, access: Access, shape: Shape = error_reply) -> Endpoint:
        for method in served.methods:
            self.documented.append(Documented(path, method, served.operation, served.scope, served.limit, shape))
        return self._endpoint(path, served, access, shape)

    def _manage(self, operations: dict[tuple[str, str], Managed], access: Access, shape: Shape = error_reply) -> None:
        by_path: dict[str, dict[str, Managed]] = {}
        for (path, method), managed in operations.items():
            by_path.setdefault(path, {})[method] = managed
            self.documented.append(Documented(path, method, managed.operation, managed.scope, managed.limit, shape))
        for path, methods in by_path.items():
            operation = ByMethod({method: self._admitted(managed, access) for method, managed in methods.items()})
            served = Served(operation, tuple(methods), None)
            endpoint = self._endpoint(path, served, access, shape)
            if "{" in path:
                self._router.routes.append(Route(path, endpoint))
            else:
                self._plain[path] = endpoint

    def _admitted(self, managed: Managed, access: Access) -> Operation:
        operation = self._audit.of(managed.event, managed.operation)

        async def admitted(call: Call) -> Answer:
            if managed.scope is not None:
                await access.admit(call, managed.scope, managed.limit)
            return await operation(call)

        return admitted

    def _endpoint(self, path: str, served: Served, access: Access, shape: Shape = error_reply) -> Endpoint:
        self.served[path] = served.methods

        async def check(call: Call) -> None:
            if self._local:
                check_local(call.header(b"host"), call.header(b"origin"))
            if served.scope is not None:
                await access.admit(call, served.scope, served.limit)

        return Endpoint(self._audit.of(served.event, served.operation), served.methods, check, shape)


class _Running(NamedTuple):
    """What a gateway process has to do besides answering."""

    engine: Engine
    endpoints: Endpoints
    limits: Limits
    news: News
    expiry: Expiry
    upkeep: Upkeep
    webhooks: Webhooks
    queue_files: QueueLoader
    telemetry: Telemetry
    vaults: Vaults

    def drain(self) -> None:
        """Has all requests that wait answer with what they have."""
        self.engine.wakeups.drain()
        self.telemetry.drain()


async def ensure_endpoint(endpoints: Endpoints, id: str) -> None:
    """Makes the endpoint unless it exists."""
    with contextlib.suppress(Conflict):
        await endpoints.create(id, Config(name=id))
        logger.info("created endpoint %s", id)


def _nothing() -> None:
    """Before the app serves, and after."""


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
