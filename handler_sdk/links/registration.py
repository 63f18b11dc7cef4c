"""A worker's registration with the gateway, over HTTP."""

import asyncio
import json
import logging
import os
import platform
import socket
from typing import Any
from urllib.parse import quote

from .. import __version__
from ..gpus import gpu_names
from ..outcomes import Limits
from ..settings import LinkSetting, Settings
from . import Backoff, RefusedError, Registered, UnreachableError
from .gateway import error_in
from .http_connection import Answer, Request
from .http_pool import Pool

logger = logging.getLogger("runlane.link")

_SECONDS = 10.0
_SECONDS_TO_LEAVE = 5.0


class Registration:
    """Counts the registrations of one worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._endpoint = f"{settings.url}/v2/{quote(settings.endpoint, safe='')}"
        self._serial = 0
        self.description: dict[str, Any] = {
            "sdk": f"runlane {__version__}",
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "python": platform.python_version(),
        }
        if gpus := gpu_names():
            self.description["gpu"] = ", ".join(gpus)

    async def join(self, link: LinkSetting, worker: str | None = None) -> Registered:
        """Registers the worker of this process, which holds nothing yet; what an earlier one of its id held goes back.

        Args:
            link: what is to carry its calls; "" for the store, where the gateway gives access to it.
            worker: its id; None for that of the settings, or one that the gateway chooses.

        Raises:
            UnreachableError: there is no gateway, or it cannot register anybody now.
            RefusedError: it does not want this worker, or gives no access to the store.
        """
        registered = await self._register(link, {"restarted": True} | ({"id": worker} if worker else {}))
        if worker is None:
            logger.info("registered at %s as worker %s", self._settings.url, registered.worker)
        return registered

    async def renew(self, before: Registered) -> Registered:
        """See `Register`."""
        registered = await self._register(before.link, {"id": before.worker})
        logger.info("registered again as worker %s", registered.worker)
        return registered

    async def leave(self, worker: str) -> None:
        """Ends the registration, as far as that is possible in a few seconds."""
        problem, backoff = "no answer", Backoff(0.2, 1.0)
        try:
            async with asyncio.timeout(_SECONDS_TO_LEAVE):
                while problem:
                    problem = await self._try_to_leave(worker)
                    if problem:
                        await asyncio.sleep(backoff.next())
        except TimeoutError:
            logger.warning("could not say goodbye to the gateway: %s", problem)

    async def _try_to_leave(self, worker: str) -> str:
        """Returns why it was in vain, if it was."""
        try:
            status, content = await self._request("DELETE", f"/workers/{quote(worker, safe='')}", _SECONDS_TO_LEAVE)
        except UnreachableError as error:
            return str(error)
        return "" if status < 500 and (status == 200 or error_in(content)) else f"it answered {status}"

    async def _register(self, link: LinkSetting, more: dict[str, Any]) -> Registered:
        body: dict[str, Any] = {"description": self.description, "link": link or "redis"}
        if self._settings.worker:
            body["id"] = self._settings.worker
        if self._settings.queues:
            body["queues"] = self._settings.queues
        status, content = await self._request("POST", "/workers", _SECONDS, json.dumps({**body, **more}).encode())
        if status != 200 and (status in (408, 429) or not 400 <= status < 500 or error_in(content) is None):
            raise UnreachableError(f"it answered {status}")
        if status != 200:
            raise RefusedError(self._explain(status, content.decode(errors="replace")))
        try:
            registered = self._read(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(f"the gateway's answer to the registration makes no sense ({error!r})") from None
        if link == "redis" and registered.link != "redis":
            raise RefusedError("the gateway gives workers no access to the store; RUNLANE_LINK=http does without")
        self._serial = registered.serial
        return registered

    async def _request(self, method: str, path: str, seconds: float, body: bytes = b"") -> Answer:
        try:
            pool = Pool(self._endpoint, self._settings.key or "", seconds, warm=0)
        except ValueError as error:
            raise UnreachableError(str(error)) from None
        try:
            return await pool.send(Request(method, path, body)).answer
        except OSError as error:
            raise UnreachableError(str(error) or type(error).__name__) from None
        finally:
            await pool.close()

    def _read(self, reply: dict[str, Any]) -> Registered:
        store = reply.get("redis")
        return Registered(
            serial=self._serial + 1,
            worker=reply["worker"],
            link="redis" if store else "http",
            url=store["url"] if store else self._endpoint,
            key="" if store else self._settings.key or "",
            cluster=bool(store and store.get("cluster")),
            library=reply["library"],
            base=reply["base"],
            lease_ms=int(reply["lease_ms"]),
            limits=Limits(int(reply["output_limit"]), int(reply["chunk_limit"])),
            queues=reply["queues"] if self._settings.queues else "",
        )

    def _explain(self, status: int, text: str) -> str:
        endpoint = self._settings.endpoint
        if status == 404:
            return f"endpoint {endpoint} does not exist; create it with `runlane endpoint create {endpoint}`"
        if status == 401:
            return "the gateway does not accept the key in RUNLANE_WORKER_KEY, or wants one and there is none"
        if status == 403:
            return f"the key in RUNLANE_WORKER_KEY may not register workers of endpoint {endpoint}"
        return f"the gateway refuses the worker: status {status}, {text[:200]}"
