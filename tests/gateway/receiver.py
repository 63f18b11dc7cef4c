"""A receiver of webhooks on loopback, whose every answer the test decides."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import web
from standardwebhooks import Webhook

from ..stores import free_port
from .waiting import SECONDS

HANG = 0
"""In place of a status: no answer until `Receiver.let_go`."""


class Received(NamedTuple):
    """A request; `headers` by their names in lower case; `port`: the sender's."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    port: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """The body, if the signature is good; else the official library raises."""
        return Webhook(secret).verify(self.body, dict(self.headers))


class Receiver:
    """Answers 200, or what `answers` has for the path: one status after the other, the last one for good."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: dict[str, list[int]] = {}
        self.location = ""
        self._news = asyncio.Condition()
        self._let_go = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.port = free_port()

    async def start(self) -> None:
        """Listens, at the same port each time."""
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()

    async def stop(self) -> None:
        """Listens no more; nobody can connect."""
        self._let_go.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def let_go(self) -> None:
        """Answers 200 to those that hang, and to all that come."""
        self._let_go.set()

    async def wait_for(self, count: int, path: str | None = None) -> list[Received]:
        """All that came, once there are so many; with a path, only what came there."""

        def those() -> list[Received]:
            return [each for each in self.received if path in (None, each.path)]

        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: len(those()) >= count), SECONDS)
        return those()

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        port = request.transport.get_extra_info("peername")[1]
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self._news:
            self.received.append(Received(request.path, headers, body, port))
            self._news.notify_all()
        statuses = self.answers.get(request.path, [200])
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        if status == HANG:
            await self._let_go.wait()
            status = 200
        location = {"Location": self.location} if 300 <= status < 400 else None
        return web.Response(status=status, text="what a receiver says", headers=location)
