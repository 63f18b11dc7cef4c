"""A worker's registration with the gateway, over HTTP."""

import json
import os
import platform
import socket
from typing import Any

from .. import __version__
from ..outcomes import Limits
from ..settings import Settings
from . import RefusedError, Registered, UnreachableError

_SECONDS = 10.0
_SECONDS_TO_LEAVE = 5.0


class Registration:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers = f"{settings.url}/v2/{settings.endpoint}/workers"
        self.description = {
            "sdk": f"runlane {__version__}",
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "python": platform.python_version(),
        }

    @property
    def url(self) -> str:
        return self._settings.url

    async def join(self, worker: str | None, serial: int) -> Registered:
        """Registers under the id `worker`, or one that the gateway chooses, for the `serial`-th time.

        Raises UnreachableError, RefusedError.
        """
        body: dict[str, Any] = {"description": self.description}
        if worker or self._settings.worker:
            body["id"] = worker or self._settings.worker
        status, text = await self._request("POST", self._workers, _SECONDS, body)
        if status >= 500 or status == 429:
            raise UnreachableError(f"it answered {status}")
        if status != 200:
            raise RefusedError(self._explain(status, text))
        try:
            return _read(json.loads(text), serial)
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(f"the gateway's answer to the registration makes no sense ({error!r})") from None

    async def leave(self, worker: str) -> None:
        """Raises UnreachableError."""
        await self._request("DELETE", f"{self._workers}/{worker}", _SECONDS_TO_LEAVE, None)

    async def _request(self, method: str, url: str, seconds: float, body: Any) -> tuple[int, str]:
        import httpx

        headers = {"Authorization": f"Bearer {self._settings.key}"} if self._settings.key else {}
        try:
            async with httpx.AsyncClient(timeout=seconds, headers=headers) as client:
                response = await client.request(method, url, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise UnreachableError(str(error) or type(error).__name__) from None
        return response.status_code, response.text

    def _explain(self, status: int, text: str) -> str:
        endpoint = self._settings.endpoint
        if status == 404:
            return f"endpoint {endpoint} does not exist; create it with `runlane endpoint create {endpoint}`"
        if status == 401:
            return "the gateway does not accept the key in RUNLANE_WORKER_KEY, or wants one and there is none"
        if status == 403:
            return f"the key in RUNLANE_WORKER_KEY may not register workers of endpoint {endpoint}"
        return f"the gateway refuses the worker: status {status}, {text[:200]}"


def _read(reply: dict[str, Any], serial: int) -> Registered:
    return Registered(
        serial=serial,
        worker=reply["worker"],
        url=reply["redis"]["url"],
        cluster=bool(reply["redis"].get("cluster")),
        library=reply["library"],
        base=reply["base"],
        lease_ms=int(reply["lease_ms"]),
        limits=Limits(int(reply["output_limit"]), int(reply["chunk_limit"])),
    )
