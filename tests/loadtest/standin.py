"""A server whose answers a test decides, in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from aiohttp import web

HEALTH = {"jobs": {}, "workers": {"ready": 1}}

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def accepted(_: web.Request) -> web.StreamResponse:
    """As `/run` answers."""
    return web.json_response({"id": "job-1", "status": "IN_QUEUE"})


class StandIn:
    """Answers POSTs with `respond`, and GETs of jobs with `respond_about`."""

    def __init__(self) -> None:
        self.respond: Respond = accepted
        self.respond_about: Respond = accepted
        self.posts = 0
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    async def hold(self, _: web.Request) -> web.StreamResponse:
        """Answers when the server stops."""
        await self._stopped.wait()
        return web.Response(status=503)

    async def _serve(self) -> None:
        application = web.Application()
        application.router.add_get("/v2/e/health", self._health)
        application.router.add_post("/v2/e/{operation:.*}", self._post)
        application.router.add_get("/v2/e/{operation}/{job}", self._get)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v2/e"
        self._started.set()
        await self._stopped.wait()
        await runner.cleanup()

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(HEALTH)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.posts += 1
        return await self.respond(request)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return await self.respond_about(request)
